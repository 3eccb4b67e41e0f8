//! `finial.sync.v1`: tells an agent of every change that concerns it, in the order in which the store committed them.
//!
//! A stream remembers the [`View`] it has sent and sends the difference to the present one. So a slow reader never has a
//! queue: when it reads again, it is told the newest state in one step. A step is one revision's state as a whole, bundles
//! before entries, so an SVID can never be asked for under a bundle that cannot verify it.
//!
//! A stream belongs to the SVID it was opened with. Before anything is read for it or sent on it, the caller is judged as if it
//! called anew; so an agent that was evicted, or has attested again since, is told nothing on a stream it left behind.
//!
//! An agent that comes back names what it holds by revision and digest. If that is the present state, it is told only the
//! bundles that changed meanwhile; if it is what this server sent it last, the difference; otherwise everything.

use std::sync::Arc;
use std::time::Duration;

use finial_datastore::{Revision, StoreError};
use finial_proto::pb::finial::sync::v1::follow_request::Step as RequestStep;
use finial_proto::pb::finial::sync::v1::sync_server::Sync as SyncApi;
use finial_proto::pb::finial::sync::v1::{FollowRequest, FollowResponse, Open};
use spiffe_types::id::SpiffeId;
use tokio::time::Instant;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::driven::{self, Replies, Unsent};
use super::{call_of, status};
use crate::authorize::{AuthorizeError, Call, DenyReason};
use crate::registry::{Feed, Refusal, Registry, View};
use parted::Parted;
use step::Step;

mod parted;
mod step;
#[cfg(test)]
mod tests;

/// The service.
#[derive(Debug)]
pub(crate) struct SyncService {
    registry: Arc<Registry>,
    parted: Arc<Parted>,
}

impl SyncService {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            parted: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl SyncApi for SyncService {
    async fn follow(
        &self,
        request: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<BoxStream<FollowResponse>>, Status> {
        let call = call_of(&request)?;
        let agent = call.caller_id().map_err(status::call)?.clone();
        let mut requests = request.into_inner();
        let (registry, parted) = (Arc::clone(&self.registry), Arc::clone(&self.parted));
        Ok(Response::new(driven::stream(move |replies| async move {
            let result = match opened(&mut requests).await {
                Ok(Some(open)) => {
                    let mut session = Session {
                        feed: registry.follow(&agent),
                        registry,
                        agent,
                        call: call.clone(),
                        replies,
                        parted,
                        told: None,
                    };
                    let ended = session.run(open, &mut requests).await;
                    ended.or_else(|ended| ended.into_status(&call))
                }
                Ok(None) => Ok(()),
                Err(status) => Err(status),
            };
            let failure = result.as_ref().err();
            call.audit()
                .end(failure.map(|status| (status.code(), status.message())));
            result
        })))
    }
}

/// One agent's stream.
struct Session {
    registry: Arc<Registry>,
    agent: SpiffeId,
    call: Call,
    feed: Feed,
    replies: Replies<FollowResponse>,
    parted: Arc<Parted>,
    /// What the agent was told last, whole.
    told: Option<View>,
}

/// Why a stream ends.
enum Ended {
    /// The agent has gone.
    Gone,
    /// The agent is to be told nothing any more.
    Refused(AuthorizeError),
    /// The agent asks for what this server has not got, and the store does not answer.
    Behind(StoreError),
    /// The agent broke the protocol.
    Protocol(Status),
}

impl Session {
    async fn run(
        &mut self,
        open: Open,
        requests: &mut Streaming<FollowRequest>,
    ) -> Result<(), Ended> {
        // The first message may come long after the headers.
        self.judge().await?;
        // The agent may come from a server that was ahead of this one.
        if open.revision > self.registry.revision().0 {
            self.registry.catch_up().await.map_err(Ended::Behind)?;
        }
        self.note_version(&open.agent_version).await?;
        let view = self.view().await?;
        let step = Step::first(&open, &view, self.parted.take(&self.agent));
        self.tell(step, view).await?;
        let mut heartbeat = Instant::now() + HEARTBEAT;
        loop {
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else {
                        return Err(Ended::Gone);
                    };
                    self.take(&request)?;
                    continue;
                }
                () = self.feed.changed() => self.tell_changes().await?,
                () = tokio::time::sleep_until(heartbeat) => {
                    match self.registry.revision_if_quiet(&self.feed) {
                        Some(revision) => self.beat(revision).await?,
                        None => continue,
                    }
                }
            }
            heartbeat = Instant::now() + HEARTBEAT;
        }
    }

    async fn tell_changes(&mut self) -> Result<(), Ended> {
        let view = self.view().await?;
        let step = match &self.told {
            Some(held) => Step::between(held, &view),
            None => Step::full(&view, Revision(0)),
        };
        self.tell(step, view).await
    }

    /// Says that nothing concerned the agent up to `revision`.
    async fn beat(&mut self, revision: Revision) -> Result<(), Ended> {
        let told = self.told.as_mut().map(|view| &mut view.revision);
        let from = told.map_or(Revision(0), |told| std::mem::replace(told, revision));
        self.send(Step::empty(from, revision)).await
    }

    async fn view(&self) -> Result<View, Ended> {
        self.judge().await?;
        let view = self.registry.view(&self.agent);
        view.map_err(|refusal| Ended::Refused(AuthorizeError::Denied(Some(refusal.into()))))
    }

    /// Whether the stream's SVID would still open it. A change to the agent wakes the feed, so it is asked soon.
    async fn judge(&self) -> Result<(), Ended> {
        let judged = self.call.authorize_again().await;
        judged.map_err(Ended::Refused)
    }

    async fn tell(&mut self, step: Step, view: View) -> Result<(), Ended> {
        self.send(step).await?;
        self.told = Some(view);
        Ok(())
    }

    async fn send(&self, step: Step) -> Result<(), Ended> {
        for message in step.into_messages() {
            self.replies.send_to(&self.call, message).await?;
        }
        Ok(())
    }

    fn take(&self, request: &FollowRequest) -> Result<(), Ended> {
        match &request.step {
            Some(RequestStep::Applied(applied)) => {
                // A revision that was never sent says nothing.
                let told = self.told.as_ref().map_or(Revision(0), |view| view.revision);
                self.feed.applied(Revision(applied.revision).min(told));
                Ok(())
            }
            Some(RequestStep::Open(_)) => Err(Ended::Protocol(status::invalid(
                "only the first message may open the stream",
            ))),
            // A step of a later version of the protocol.
            None => Ok(()),
        }
    }

    async fn note_version(&self, version: &str) -> Result<(), Ended> {
        if version.chars().count() > MAX_VERSION_CHARS {
            return Err(Ended::Protocol(status::invalid(
                "agent version is too long (max 255 characters)",
            )));
        }
        if let Err(error) = self.registry.note_agent_version(&self.agent, version).await {
            // The stream is worth more than the note.
            tracing::warn!(
                subsystem_name = "sync",
                spiffe_id = %self.agent,
                error = %finial_runtime::log::chain(&error),
                "Failed to note the agent's version"
            );
        }
        Ok(())
    }
}

/// A call whose client has gone is dropped wherever it stands.
impl Drop for Session {
    fn drop(&mut self) {
        if let Some(view) = self.told.take() {
            self.parted.keep(&self.agent, view);
        }
    }
}

impl Ended {
    /// The status the stream ends with; that the agent has gone is none.
    fn into_status(self, call: &Call) -> Result<(), Status> {
        match self {
            Self::Gone => Ok(()),
            Self::Refused(error) => Err(status::ended(call.row(), &error)),
            Self::Behind(error) => Err(status::store("failed to read the change log", &error)),
            Self::Protocol(status) => Err(status),
        }
    }
}

impl From<Unsent> for Ended {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Gone(_) => Self::Gone,
            Unsent::Refused(error) => Self::Refused(error),
        }
    }
}

impl From<Refusal> for DenyReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotAttested => Self::NotAttested,
            Refusal::Banned => Self::Banned,
        }
    }
}

/// Waits for the first message; `None` when the agent hung up before it.
async fn opened(requests: &mut Streaming<FollowRequest>) -> Result<Option<Open>, Status> {
    let first = tokio::time::timeout(OPEN_TIMEOUT, requests.message())
        .await
        .map_err(|_elapsed| status::too_slow("the stream was not opened in time"))?;
    let Ok(Some(request)) = first else {
        return Ok(None);
    };
    match request.step {
        Some(RequestStep::Open(open)) => Ok(Some(open)),
        Some(RequestStep::Applied(_)) | None => {
            Err(status::invalid("the first message must open the stream"))
        }
    }
}

/// How long a stream is quiet at most.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long the first message may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

const MAX_VERSION_CHARS: usize = 255;
