//! Connections: from an accepted stream to calls, to a goodbye.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::Rng as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// What a connection is allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// After this long the client is told to open another connection; none means never.
    pub(super) max_age: Option<Duration>,
    /// After this long it is cut off, whatever is under way; none means never.
    pub(super) max_life: Option<Duration>,
    /// Calls at the same time.
    pub(super) max_streams: u32,
    /// Bytes of one call's request that may be on their way unread.
    pub(super) stream_window: u32,
    /// Bytes of all requests that may be on their way unread.
    pub(super) connection_window: u32,
}

/// Those that have not shown yet that there is a client behind them, connections or calls. The oldest goes when there are too
/// many.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    limit: usize,
    queue: Arc<Mutex<VecDeque<CancellationToken>>>,
}

/// A place among the waiting; given up when dropped.
#[derive(Debug)]
pub(super) struct Place(CancellationToken);

/// How long a stopping server waits for calls that are under way.
pub(super) const GRACE: Duration = Duration::from_secs(10);
const MAX_FRAME_BYTES: u32 = 16 * 1024;
const MAX_HEADER_BYTES: u32 = 64 * 1024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How much of an answer waits for a slow reader.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// Serves the calls of one connection until the client leaves, its age is reached, or the server stops. Calls under way
/// are finished; dropping the future cuts them off.
pub(super) async fn serve<I, S>(io: I, service: S, bounds: Bounds, stop: CancellationToken)
where
    I: Read + Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.max_streams)
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let age = async {
        match bounds.max_age {
            Some(age) => tokio::time::sleep(jittered(age)).await,
            None => std::future::pending().await,
        }
    };
    let served = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            () = stop.cancelled() => {}
            () = age => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    // A client that opens a call and reads no answer would stay for good.
    let result = match bounds.max_life {
        Some(life) => tokio::time::timeout(life, served).await,
        None => Ok(served.await),
    };
    if let Ok(Err(error)) = result
        && !went_away(&error)
    {
        tracing::debug!(
            subsystem_name = "endpoints",
            error = %finial_runtime::log::chain(&error),
            "connection ended"
        );
    }
}

/// Clients hang up without a word; that is no news.
fn went_away(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::NotConnected
            );
        }
        cause = error.source();
    }
    false
}

/// Waits for the connections of a listener that stops; those that take longer than the grace period are cut off. Tells
/// whether all of them ended by themselves.
pub(super) async fn drain(mut connections: JoinSet<()>) -> bool {
    let all = async { while connections.join_next().await.is_some() {} };
    let graceful = tokio::time::timeout(GRACE, all).await.is_ok();
    connections.shutdown().await;
    graceful
}

/// Allows this process as many open files as the system lets it have: each connection is one.
pub(super) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        tracing::warn!(subsystem_name = "endpoints", %errno, "failed to raise the limit of open files");
    }
}

/// A duration give or take a tenth, so that clients that came together do not return together.
pub(super) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::rng().random_range(0.9..1.1))
}

impl Waiting {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            queue: Arc::default(),
        }
    }

    /// Takes a place, at the cost of whoever has waited longest when there is none free.
    pub(super) fn enter(&self) -> Place {
        let place = CancellationToken::new();
        let mut queue = self.lock();
        if queue.len() >= self.limit {
            queue.retain(|waiting| !waiting.is_cancelled());
        }
        while queue.len() >= self.limit {
            match queue.pop_front() {
                Some(oldest) => oldest.cancel(),
                None => break,
            }
        }
        queue.push_back(place.clone());
        Place(place)
    }

    /// Turns the one away that has waited longest; used when the process runs out of files.
    pub(super) fn evict_oldest(&self) {
        let mut queue = self.lock();
        while let Some(oldest) = queue.pop_front() {
            if !oldest.is_cancelled() {
                oldest.cancel();
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<CancellationToken>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Resolves when the place is needed for somebody else.
    pub(super) async fn evicted(&self) {
        self.0.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::time::Instant;
    use tonic::transport::Endpoint;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_without_end_does_not_keep_its_connection() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let life = Duration::from_mins(75);
        let bounds = Bounds {
            max_age: Some(Duration::from_mins(3)),
            max_life: Some(life),
            max_streams: 10,
            stream_window: 64 * 1024,
            connection_window: 64 * 1024,
        };
        let never = service_fn(|_| std::future::pending());
        let mut client = Some(client);
        let connector = tower::service_fn(move |_: http::Uri| {
            let client = client.take().map(TokioIo::new);
            async move { client.ok_or_else(|| io::Error::other("connected once already")) }
        });
        let mut tasks = JoinSet::new();
        let start = Instant::now();
        tasks.spawn(async move {
            serve(
                TokioIo::new(server),
                never,
                bounds,
                CancellationToken::new(),
            )
            .await;
        });
        let channel = Endpoint::from_static("http://in.memory")
            .connect_with_connector(connector)
            .await
            .unwrap();
        let call = channel.oneshot(Request::new(Body::empty()));

        let answer = tokio::time::timeout(2 * life, call).await;

        assert!(answer.expect("the connection ends").is_err());
        assert!(start.elapsed() >= life);
    }

    #[test]
    fn the_longest_waiting_gives_way_when_all_places_are_taken() {
        let waiting = Waiting::new(2);
        let first = waiting.enter();
        let second = waiting.enter();
        let third = waiting.enter();

        assert!(first.0.is_cancelled());
        assert!(!second.0.is_cancelled());
        assert!(!third.0.is_cancelled());
    }

    #[test]
    fn a_place_that_was_given_up_costs_nobody() {
        let waiting = Waiting::new(2);
        let first = waiting.enter();
        drop(waiting.enter());
        let third = waiting.enter();

        assert!(!first.0.is_cancelled());
        assert!(!third.0.is_cancelled());
    }
}
