//! The frame of a process: runtime, signals, exit code.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Code, Console, FAILED, OK};
use crate::clock::SystemClock;
use crate::log::{self, LogConfig, chain};

/// How long blocking work may hold up the end of the process.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// Runs a long-lived process until it ends by itself or is told to stop.
///
/// SIGINT and SIGTERM cancel the token that `body` receives; a second one ends the process without waiting. SIGUSR2
/// reopens the log file.
pub fn run<F, Fut>(body: F) -> anyhow::Result<Code>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<Code>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let shutdown = CancellationToken::new();
    let result = runtime.block_on(async {
        let signals = Signals::listen().context("failed to listen for signals")?;
        tokio::select! {
            biased;
            code = signals.drive(shutdown.clone()) => Ok(code),
            result = body(shutdown.clone()) => result,
        }
    });
    runtime.shutdown_timeout(BLOCKING_GRACE);
    result
}

/// Starts the log and runs a program; `crashed` is logged with what ends it badly, and `exit_code` says how it ends then.
pub fn serve<F, Fut>(
    log: &LogConfig,
    console: &mut Console,
    crashed: &'static str,
    exit_code: impl FnOnce(&anyhow::Error) -> Code,
    body: F,
) -> Code
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    if let Err(error) = log::init(log, SystemClock::shared()) {
        console.errln(chain(&error));
        return FAILED;
    }
    let result = run(async move |shutdown| {
        Box::pin(body(shutdown)).await?;
        Ok(OK)
    });
    result.unwrap_or_else(|failure| {
        let error = format!("{failure:#}");
        tracing::error!(error, "{crashed}");
        if log.file.is_some() {
            // Whoever started the program does not see the log.
            console.errln(error);
        }
        exit_code(&failure)
    })
}

/// Runs a command that talks to a server and ends; signals keep their default effect.
pub fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the async runtime")?;
    let value = runtime.block_on(future);
    runtime.shutdown_background();
    Ok(value)
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
    reopen: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // Unhandled, SIGUSR1 would end a process whose operator only meant to reload it.
            reload: signal(SignalKind::user_defined1())?,
            reopen: signal(SignalKind::user_defined2())?,
        })
    }

    /// Returns only when the process must end without waiting.
    async fn drive(mut self, shutdown: CancellationToken) -> Code {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
                _ = self.reload.recv() => {
                    tracing::info!("no plugin reads its configuration from a file; nothing to reload");
                    continue;
                }
                _ = self.reopen.recv() => {
                    reopen_log();
                    continue;
                }
            }
            if shutdown.is_cancelled() {
                tracing::warn!("second signal received; ending without waiting for open work");
                return FAILED;
            }
            shutdown.cancel();
        }
    }
}

fn reopen_log() {
    if let Some(handle) = log::current()
        && let Err(error) = handle.reopen()
    {
        tracing::error!(error = %chain(&error), "failed to rotate log after signal");
    }
}
