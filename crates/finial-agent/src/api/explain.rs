//! `finial.agent.explain.v1.Explain`, on the admin socket: why a process has the identities it has, or none.
//!
//! The process is attested as the Workload API would attest it, and the answer is made of the same parts: the attestors' answers,
//! the cache's entries, the state of synchronization. [`steps`] draws the conclusions.

mod find;
mod present;
mod steps;
#[cfg(test)]
mod tests;
mod way;

use std::path::PathBuf;
use std::sync::Arc;

use finial_plugin::workload::{Peer, Workload};
use finial_proto::convert;
use finial_proto::pb::finial::agent::explain::v1 as pb;
use finial_proto::pb::finial::agent::explain::v1::explain_request::Target;
use finial_proto::pb::finial::agent::explain::v1::explain_server::Explain as ExplainApi;
use finial_runtime::clock::SharedClock;
use finial_runtime::log::chain;
use spiffe_types::id::SpiffeId;
use spiffe_types::selector::SelectorSet;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

pub(crate) use self::steps::describe_missing;
use super::status::NO_IDENTITY_ISSUED;
use crate::cache::{Cache, Match};
use crate::sync::{Mode, SyncStatus};
use crate::workload::UnseenCallers;
use crate::workload::attest::{Answer, AttestorFailure, Attestors, is_incomplete};

/// What explanations are made of.
#[derive(Debug)]
pub struct ExplainParts {
    /// The agent's own SPIFFE ID.
    pub agent_id: SpiffeId,
    /// Host and port of the server.
    pub server_address: String,
    /// Where the Workload API listens; `None` when it is disabled.
    pub socket_path: Option<PathBuf>,
    /// The entries and SVIDs.
    pub cache: Cache,
    /// Those who tell about processes.
    pub attestors: Arc<Attestors>,
    /// How synchronization stands.
    pub sync: watch::Receiver<SyncStatus>,
    /// Callers the agent could not see.
    pub unseen: Arc<UnseenCallers>,
    /// The time.
    pub clock: SharedClock,
}

/// Explains.
#[derive(Debug)]
pub struct ExplainService {
    parts: ExplainParts,
}

impl ExplainService {
    /// Creates the service.
    pub fn new(parts: ExplainParts) -> Self {
        Self { parts }
    }

    async fn explain_process(&self, workload: &Workload) -> Result<pb::ExplainResponse, Status> {
        let parts = &self.parts;
        let answers = parts.attestors.examine(workload).await.map_err(|error| {
            Status::failed_precondition(format!(
                "process {} cannot be attested: {}",
                workload.pid(),
                chain(&error)
            ))
        })?;
        let attestors = answers.iter().map(present::attestor).collect();
        let total = answers.len();
        let (selectors, failures) = sort_out(answers);
        let matches = parts.cache.matches(&selectors);
        let near_misses = present::near_misses(&parts.cache, &selectors, &failures);
        let now = parts.clock.now();
        let mut response = pb::ExplainResponse {
            process: Some(present::process(workload)),
            attestors,
            answer: Some(self.answer(&matches, &selectors, &failures, total)),
            matches: matches
                .iter()
                .map(|matched| present::matched(matched, now))
                .collect(),
            near_misses_total: present::count(near_misses.len()),
            near_misses: near_misses.into_iter().take(NEAR_MISSES).collect(),
            sync: Some(self.sync()),
            workload_socket: match &parts.socket_path {
                Some(socket) => way::workload_socket(workload, socket).await,
                None => None,
            },
            unseen_callers: Some(pb::UnseenCallers {
                count: parts.unseen.count(),
                last_uid: parts.unseen.last_uid(),
            }),
            next_steps: Vec::new(),
        };
        response.next_steps = steps::next_steps(&response, &selectors, &self.facts());
        Ok(response)
    }

    /// The answer of the Workload API, by its own rules.
    fn answer(
        &self,
        matches: &[Match],
        selectors: &SelectorSet,
        failures: &[AttestorFailure],
        attestors: usize,
    ) -> pb::Answer {
        let all_failed = !failures.is_empty() && failures.len() == attestors;
        let (code, message) = if all_failed || is_incomplete(&self.parts.cache, selectors, failures)
        {
            let status = super::status::incomplete(failures);
            ("Unavailable", status.message().to_owned())
        } else if matches.is_empty() {
            ("PermissionDenied", NO_IDENTITY_ISSUED.to_owned())
        } else {
            let signed = matches
                .iter()
                .filter(|matched| matched.identity.svid.is_some())
                .count();
            let of = matches.len();
            let message = if signed == of {
                format!("{of} X.509-SVID{}", if of == 1 { "" } else { "s" })
            } else {
                format!("held until all SVIDs are signed: {signed} of {of} are")
            };
            ("OK", message)
        };
        pb::Answer {
            code: code.to_owned(),
            message,
        }
    }

    fn sync(&self) -> pb::Sync {
        let parts = &self.parts;
        let status = parts.sync.borrow().clone();
        pb::Sync {
            agent_id: parts.agent_id.to_string(),
            server_address: parts.server_address.clone(),
            mode: status.mode.as_str().to_owned(),
            push: status.mode == Mode::Push,
            revision: parts.cache.revision(),
            last_contact: status.last_sync.map_or(0, convert::time::to_unix),
            last_error: status
                .last_error
                .map(|error| error.as_ref().to_owned())
                .unwrap_or_default(),
            entries: present::count(parts.cache.counts().entries),
        }
    }

    fn facts(&self) -> steps::Facts<'_> {
        steps::Facts {
            entries: &self.parts.cache,
            socket_path: self.parts.socket_path.as_deref(),
            trust_domain: self.parts.agent_id.trust_domain_name(),
            sees_host: find::sees_host_processes(),
        }
    }
}

#[tonic::async_trait]
impl ExplainApi for ExplainService {
    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let pid = match request.into_inner().target {
            Some(Target::Pid(pid)) if pid > 0 => pid,
            Some(Target::Container(name)) if !name.is_empty() => {
                find::container(&self.parts.attestors, &name, &self.parts.unseen).await?
            }
            Some(_) | None => {
                return Err(Status::invalid_argument(
                    "name a process by a PID above 0, or a container",
                ));
            }
        };
        let workload = Peer::of_pid(pid)
            .and_then(|peer| peer.open())
            .map_err(|error| find::process_not_found(pid, &error, &self.parts.unseen))?;
        let response = self.explain_process(&workload).await?;
        Ok(Response::new(response))
    }
}

fn sort_out(answers: Vec<Answer>) -> (SelectorSet, Vec<AttestorFailure>) {
    let mut selectors = Vec::new();
    let mut failures = Vec::new();
    for Answer { attestor, result } in answers {
        match result {
            Ok(found) => selectors.extend(found),
            Err(error) => failures.push(AttestorFailure { attestor, error }),
        }
    }
    (selectors.into_iter().collect(), failures)
}

/// More than a person reads.
const NEAR_MISSES: usize = 10;
