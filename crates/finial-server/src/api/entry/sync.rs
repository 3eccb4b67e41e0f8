//! `SyncAuthorizedEntries`: small sets are sent whole; of large ones, what changed is asked for by the agent.
//!
//! What the agent may know is looked up once, when it calls, and may be asked for over minutes: so it is judged anew with each
//! message that is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use finial_proto::convert;
use finial_proto::pb::spire::api::server::entry::v1 as pb;
use finial_proto::pb::spire::api::types::EntryMask;
use spiffe_types::entry::Entry;
use tonic::{Code, Status, Streaming};

use super::masked;
use crate::api::driven::{Replies, Unsent};
use crate::api::status;
use crate::authorize::Call;

/// Entries in one message.
const PAGE: usize = 500;
/// An agent that is silent for longer has lost the stream.
const SILENCE_LIMIT: Duration = Duration::from_mins(2);

/// Who is answered.
struct Agent<'a> {
    call: &'a Call,
    replies: Replies<pb::SyncAuthorizedEntriesResponse>,
}

/// Whether there is somebody to go on for.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    Here,
    Gone,
}

pub(super) async fn serve(
    entries: Arc<[Arc<Entry>]>,
    call: Call,
    mut requests: Streaming<pb::SyncAuthorizedEntriesRequest>,
    replies: Replies<pb::SyncAuthorizedEntriesResponse>,
) -> Result<(), Status> {
    let agent = Agent {
        call: &call,
        replies,
    };
    let result = sync(&entries, &mut requests, &agent).await;
    call.audit().end(
        result
            .as_ref()
            .err()
            .map(|error| (error.code(), error.message())),
    );
    result
}

impl Agent<'_> {
    async fn send(&self, response: pb::SyncAuthorizedEntriesResponse) -> Result<(), Unsent> {
        self.replies.send_to(self.call, response).await
    }

    /// A client that went away does not make a failure; one that may not be told any more learns why.
    fn sent(&self, sent: Result<(), Unsent>) -> Result<Reach, Status> {
        match sent {
            Ok(()) => Ok(Reach::Here),
            Err(Unsent::Gone(_)) => Ok(Reach::Gone),
            Err(Unsent::Refused(error)) => Err(status::ended(self.call.row(), &error)),
        }
    }
}

async fn sync(
    entries: &[Arc<Entry>],
    requests: &mut Streaming<pb::SyncAuthorizedEntriesRequest>,
    agent: &Agent<'_>,
) -> Result<(), Status> {
    let Some(first) = next(requests).await? else {
        return Ok(());
    };
    if !first.ids.is_empty() {
        return Err(status::invalid(
            "specifying IDs on initial request is not supported",
        ));
    }
    // The mask of the first request applies throughout.
    let output_mask = first.output_mask;
    if output_mask.is_some_and(|mask| !mask.revision_number) {
        return Err(status::invalid("revision number cannot be masked"));
    }
    if entries.len() <= PAGE {
        let all = entries.iter().map(Arc::as_ref);
        let sent = agent.send(page(all, output_mask.as_ref(), false)).await;
        return agent.sent(sent).map(drop);
    }
    let sent = send_revisions(entries, agent).await;
    if agent.sent(sent)? == Reach::Gone {
        return Ok(());
    }
    let by_id: HashMap<&str, &Entry> = entries
        .iter()
        .map(|entry| (entry.id.as_str(), entry.as_ref()))
        .collect();
    while let Some(request) = next(requests).await? {
        let mut ids = request.ids;
        ids.sort_unstable();
        ids.dedup();
        let wanted: Vec<&Entry> = ids
            .iter()
            .filter_map(|id| by_id.get(id.as_str()).copied())
            .collect();
        let sent = send_entries(&wanted, output_mask.as_ref(), agent).await;
        if agent.sent(sent)? == Reach::Gone {
            return Ok(());
        }
    }
    Ok(())
}

async fn next(
    requests: &mut Streaming<pb::SyncAuthorizedEntriesRequest>,
) -> Result<Option<pb::SyncAuthorizedEntriesRequest>, Status> {
    let message = tokio::time::timeout(SILENCE_LIMIT, requests.message())
        .await
        .map_err(|_elapsed| status::too_slow("no request within 2m"))?;
    match message {
        Ok(message) => Ok(message),
        // A client that has what it wanted goes without a word.
        Err(error) if matches!(error.code(), Code::Cancelled | Code::Unknown) => Ok(None),
        Err(error) => Err(status::received(&error, "failed to receive request")),
    }
}

async fn send_revisions(entries: &[Arc<Entry>], agent: &Agent<'_>) -> Result<(), Unsent> {
    let mut pages = entries.chunks(PAGE).peekable();
    while let Some(page) = pages.next() {
        let entry_revisions = page.iter().map(|entry| pb::EntryRevision {
            id: entry.id.to_string(),
            revision_number: i64::try_from(entry.revision_number).unwrap_or(i64::MAX),
            created_at: convert::time::to_unix(entry.created_at),
        });
        let response = pb::SyncAuthorizedEntriesResponse {
            entry_revisions: entry_revisions.collect(),
            entries: Vec::new(),
            more: pages.peek().is_some(),
        };
        agent.send(response).await?;
    }
    Ok(())
}

async fn send_entries(
    entries: &[&Entry],
    output_mask: Option<&EntryMask>,
    agent: &Agent<'_>,
) -> Result<(), Unsent> {
    let mut pages = entries.chunks(PAGE).peekable();
    // Nothing found is an answer too.
    let mut current = pages.next().unwrap_or_default();
    loop {
        let following = pages.next();
        let response = page(current.iter().copied(), output_mask, following.is_some());
        agent.send(response).await?;
        match following {
            Some(following) => current = following,
            None => return Ok(()),
        }
    }
}

fn page<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    output_mask: Option<&EntryMask>,
    more: bool,
) -> pb::SyncAuthorizedEntriesResponse {
    pb::SyncAuthorizedEntriesResponse {
        entry_revisions: Vec::new(),
        entries: entries
            .map(|entry| masked(convert::entry::to_pb(entry), output_mask))
            .collect(),
        more,
    }
}
