//! `api watch`.

use std::time::Duration;

use finial_client::rpc_error::RpcError;
use finial_client::workload;
use finial_proto::pb;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags};
use finial_runtime::clock::{Clock as _, SystemClock};
use finial_runtime::process;
use tokio::time::Instant;

use super::client::{self, Agent};
use super::svids::Svids;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Flags of `api watch`.
pub(super) fn flags() -> FlagSet {
    client::flags("watch")
}

/// `api watch`
pub(super) fn run(flags: &Flags, console: &mut Console) -> Code {
    let watched = Agent::find(flags).and_then(|agent| {
        process::block_on(async {
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => match interrupted {
                    Ok(()) => "context canceled".to_owned(),
                    Err(error) => error.to_string(),
                },
                error = watch(&agent, console) => error.to_string(),
            }
        })
    });
    match watched {
        Ok(end) => console.errln(end),
        Err(error) => console.errln(format_args!("{error:#}")),
    }
    FAILED
}

/// Prints updates until the agent says that it will never send any.
async fn watch(agent: &Agent, console: &mut Console) -> RpcError {
    let mut since = Instant::now();
    let mut wait = FIRST_RETRY;
    loop {
        let failure = follow(agent, console, &mut since, &mut wait).await;
        let error = agent.error(&failure);
        if matches!(
            failure.code(),
            tonic::Code::InvalidArgument | tonic::Code::Cancelled
        ) {
            return error;
        }
        console.errln(&error);
        tokio::time::sleep(wait).await;
        wait = (wait + FIRST_RETRY).min(LONGEST_RETRY);
    }
}

/// Prints updates of one stream; returns how it ended.
async fn follow(
    agent: &Agent,
    console: &mut Console,
    since: &mut Instant,
    wait: &mut Duration,
) -> tonic::Status {
    let opened = workload::client(agent.channel())
        .fetch_x509svid(pb::X509svidRequest {})
        .await;
    let mut stream = match opened {
        Ok(stream) => stream.into_inner(),
        Err(status) => return status,
    };
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return tonic::Status::unavailable("the agent ended the stream"),
            Err(status) => return status,
        };
        *wait = FIRST_RETRY;
        match Svids::read(&response, SystemClock.now()) {
            Ok(svids) => {
                console.out(svids.text(since.elapsed(), false, strip_scheme));
            }
            Err(error) => console.errln(format_args!("{error:#}")),
        }
        *since = Instant::now();
    }
}

/// Turns `spiffe://other.td` into `other.td`.
fn strip_scheme(id: &str) -> &str {
    id.strip_prefix("spiffe://").unwrap_or(id)
}
