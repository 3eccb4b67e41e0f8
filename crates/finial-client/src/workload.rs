//! The SPIFFE Workload API as a workload sees it: streams of complete states that survive restarts of the agent.

mod response;

use std::fmt;
use std::time::Duration;

use finial_proto::pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use finial_proto::pb::{X509BundlesRequest, X509svidRequest};
use finial_runtime::backoff::Backoff;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

pub use response::{MalformedResponse, PrivateKey, WorkloadIdentity, X509Bundles, X509Context};

use crate::status::describe;

/// The header that proves a caller means the Workload API (SPIFFE Workload Endpoint §5).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A generated client that sends the security header with each call.
pub type WorkloadApiClient = SpiffeWorkloadApiClient<InterceptedService<Channel, SecurityHeader>>;

/// The generated client over `channel`, with the security header.
pub fn client(channel: Channel) -> WorkloadApiClient {
    SpiffeWorkloadApiClient::with_interceptor(channel, SecurityHeader)
}

/// Follows the caller's X.509-SVIDs and the bundles that go with them.
pub fn watch_x509(channel: Channel) -> Watch<X509Context> {
    Watch::new(channel)
}

/// Follows the X.509 bundles the caller may verify with.
pub fn watch_x509_bundles(channel: Channel) -> Watch<X509Bundles> {
    Watch::new(channel)
}

/// Adds the security header to each request.
#[derive(Debug, Clone, Copy, Default)]
pub struct SecurityHeader;

impl Interceptor for SecurityHeader {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
        Ok(request)
    }
}

/// A stream of the Workload API that is opened again whenever it ends.
pub struct Watch<T: WatchedState> {
    client: WorkloadApiClient,
    stream: Option<Streaming<T::Response>>,
    backoff: Backoff,
    /// Whether the next failure is news: the first is a warning, those after it are not.
    healthy: bool,
    denied: bool,
}

impl<T: WatchedState> Watch<T> {
    fn new(channel: Channel) -> Self {
        Self {
            client: client(channel),
            stream: None,
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY, None),
            healthy: true,
            denied: false,
        }
    }

    /// Waits for the next state, which replaces all before it. Ends never on its own: set a deadline where there is one.
    ///
    /// An agent that is away, or not ready, is waited for. Cancel-safe: no state is lost, at most a wait starts anew.
    ///
    /// # Errors
    ///
    /// The watch may go on after each but [`WatchError::Refused`], which is repeated.
    pub async fn next(&mut self) -> Result<T, WatchError> {
        loop {
            let failure = match self.response().await {
                Ok(response) => {
                    self.backoff.reset();
                    self.healthy = true;
                    self.denied = false;
                    return T::read(response).map_err(|source| WatchError::Malformed { source });
                }
                Err(failure) => failure,
            };
            self.stream = None;
            match failure.code() {
                // The standard forbids to try the same call again.
                Code::InvalidArgument => return Err(WatchError::Refused { status: failure }),
                Code::PermissionDenied if !self.denied => {
                    self.denied = true;
                    return Err(WatchError::NotEntitled { status: failure });
                }
                _ => {}
            }
            self.wait(&failure).await;
        }
    }

    async fn response(&mut self) -> Result<T::Response, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => closed.insert(T::open(&mut self.client).await?),
        };
        let response = stream.message().await?;
        response.ok_or_else(|| Status::unavailable("the agent ended the stream"))
    }

    async fn wait(&mut self, failure: &Status) {
        let wait = self.backoff.next(&mut rand::rng()).unwrap_or(LONGEST_RETRY);
        if self.healthy && !self.denied {
            tracing::warn!(error = %describe(failure), code = ?failure.code(), "failed to watch the workload api");
        } else {
            tracing::debug!(error = %describe(failure), code = ?failure.code(), "failed to watch the workload api again");
        }
        self.healthy = false;
        tokio::time::sleep(wait).await;
    }
}

impl<T: WatchedState> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("open", &self.stream.is_some())
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

/// What a [`Watch`] follows: a stream of the Workload API and how its messages are read.
pub trait WatchedState: Sized + Send {
    /// The message of the stream.
    type Response: Send + 'static;

    /// Opens the stream.
    fn open(
        client: &mut WorkloadApiClient,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;

    /// Reads a message, which is a complete state.
    fn read(response: Self::Response) -> Result<Self, MalformedResponse>;
}

impl WatchedState for X509Context {
    type Response = finial_proto::pb::X509svidResponse;

    async fn open(client: &mut WorkloadApiClient) -> Result<Streaming<Self::Response>, Status> {
        Ok(client
            .fetch_x509svid(X509svidRequest {})
            .await?
            .into_inner())
    }

    fn read(response: Self::Response) -> Result<Self, MalformedResponse> {
        response::read_x509_context(&response)
    }
}

impl WatchedState for X509Bundles {
    type Response = finial_proto::pb::X509BundlesResponse;

    async fn open(client: &mut WorkloadApiClient) -> Result<Streaming<Self::Response>, Status> {
        Ok(client
            .fetch_x509_bundles(X509BundlesRequest {})
            .await?
            .into_inner())
    }

    fn read(response: Self::Response) -> Result<Self, MalformedResponse> {
        response::read_x509_bundles(&response)
    }
}

/// Why a watch has no state to tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The agent will never answer this call; the watch is over.
    #[error("the agent refused the call")]
    Refused {
        /// What it said.
        status: Status,
    },
    /// The agent has no identity for the caller, or none any more. What it handed out before must no longer be used.
    #[error("the agent has no identity for the caller")]
    NotEntitled {
        /// What it said.
        status: Status,
    },
    /// A message breaks the rules of the Workload API. The state before it still holds.
    #[error("the agent sent a malformed message")]
    Malformed {
        /// What is wrong with it.
        source: MalformedResponse,
    },
}
