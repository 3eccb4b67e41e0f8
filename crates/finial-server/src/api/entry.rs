//! `spire.api.server.entry.v1.Entry`.

use std::sync::Arc;

use finial_datastore::{Created, StoreError};
use finial_proto::pb::spire::api::server::entry::v1 as pb;
use finial_proto::pb::spire::api::server::entry::v1::entry_server::Entry as EntryApi;
use finial_proto::pb::spire::api::types;
use finial_proto::{convert, mask};
use pb::batch_create_entry_response::Result as CreateResult;
use pb::batch_delete_entry_response::Result as DeleteResult;
use pb::batch_update_entry_response::Result as UpdateResult;
use spiffe_types::entry::{EntryId, NewEntry};
use spiffe_types::id::TrustDomain;
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::audit::{self, AuditFields};
use super::{Services, call_of, driven, matching, status};
use crate::authorize::Call;

mod sync;

/// Serves registration entries: to operators all of them, to agents their own.
#[derive(Debug)]
pub(crate) struct EntryService {
    services: Arc<Services>,
}

impl EntryService {
    pub(crate) fn new(services: Arc<Services>) -> Self {
        Self { services }
    }

    async fn update(
        &self,
        entry: types::Entry,
        input_mask: Option<&types::EntryMask>,
    ) -> Result<types::Entry, Status> {
        const FAILED: &str = "failed to update entry";
        let (id, patch) =
            convert::entry::patch_from_pb(&self.services.trust_domain, entry, input_mask)
                .map_err(|error| status::convert("failed to convert entry", FAILED, &error))?;
        if let Some(federates_with) = &patch.federates_with {
            self.services.check_federates_with(federates_with)?;
        }
        let now = self.services.clock.now();
        let entry = self
            .services
            .store
            .update_entry(&id, patch, now)
            .await
            .map_err(|error| status::store(FAILED, &error))?;
        Ok(convert::entry::to_pb(&entry))
    }

    async fn delete(&self, id: &str) -> Result<(), Status> {
        if id.is_empty() {
            return Err(status::invalid("missing entry ID"));
        }
        let Ok(id) = EntryId::parse(id) else {
            return Err(status::not_found("entry not found"));
        };
        match self.services.store.delete_entry(&id).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => Err(status::not_found("entry not found")),
            Err(error) => Err(status::because(
                status::store_code(&error),
                "failed to delete entry",
                &error,
            )),
        }
    }

    fn parse_new(&self, entry: types::Entry) -> Result<NewEntry, Status> {
        let entry =
            convert::entry::new_from_pb(&self.services.trust_domain, entry).map_err(|error| {
                status::convert("failed to convert entry", "failed to create entry", &error)
            })?;
        self.services.check_federates_with(&entry.federates_with)?;
        Ok(entry)
    }
}

#[tonic::async_trait]
impl EntryApi for EntryService {
    async fn count_entries(
        &self,
        request: Request<pb::CountEntriesRequest>,
    ) -> Result<Response<pb::CountEntriesResponse>, Status> {
        let call = call_of(&request)?;
        let filter = matching::counted_entries(request.into_inner().filter);
        note_filter(&call, filter.as_ref());
        let filter = matching::entries(&self.services.trust_domain, filter)?;
        let count = self
            .services
            .store
            .count_entries(&filter)
            .await
            .map_err(|error| status::internal("failed to count entries", &error))?;
        Ok(Response::new(pb::CountEntriesResponse {
            count: i32::try_from(count).unwrap_or(i32::MAX),
        }))
    }

    async fn list_entries(
        &self,
        request: Request<pb::ListEntriesRequest>,
    ) -> Result<Response<pb::ListEntriesResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        note_filter(&call, request.filter.as_ref());
        let filter = matching::entries(&self.services.trust_domain, request.filter)?;
        let page = matching::page(request.page_size, request.page_token);
        let list = self
            .services
            .store
            .list_entries(&filter, page)
            .await
            .map_err(|error| status::internal("failed to list entries", &error))?;
        let output_mask = request.output_mask.as_ref();
        let entries = list
            .items
            .iter()
            .map(|entry| masked(convert::entry::to_pb(entry), output_mask))
            .collect();
        Ok(Response::new(pb::ListEntriesResponse {
            entries,
            next_page_token: list.next.unwrap_or_default(),
        }))
    }

    async fn get_entry(
        &self,
        request: Request<pb::GetEntryRequest>,
    ) -> Result<Response<types::Entry>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(status::invalid("missing ID"));
        }
        call.audit()
            .note(|fields| fields.entry_id = Some(request.id.clone()));
        let Ok(id) = EntryId::parse(&request.id) else {
            return Err(status::not_found("entry not found"));
        };
        let entry = self
            .services
            .store
            .find_entry(&id)
            .await
            .map_err(|error| status::internal("failed to fetch entry", &error))?
            .ok_or_else(|| status::not_found("entry not found"))?;
        let entry = convert::entry::to_pb(&entry);
        Ok(Response::new(masked(entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<pb::BatchCreateEntryRequest>,
    ) -> Result<Response<pb::BatchCreateEntryResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let output_mask = request.output_mask.as_ref();
        let mut parsed = Vec::with_capacity(request.entries.len());
        let mut accepted = Vec::new();
        let audited: Vec<_> = request
            .entries
            .iter()
            .map(|entry| audit::of_entry(entry, None))
            .collect();
        for entry in request.entries {
            match self.parse_new(entry) {
                Ok(entry) => {
                    accepted.push(entry);
                    parsed.push(Ok(()));
                }
                Err(status) => parsed.push(Err(status)),
            }
        }
        let mut stored = if accepted.is_empty() {
            Vec::new()
        } else {
            self.services
                .store
                .create_entries(accepted, self.services.clock.now())
                .await
                .map_err(|error| {
                    status::because(status::store_code(&error), "failed to create entry", &error)
                })?
        }
        .into_iter();

        let mut results = Vec::with_capacity(parsed.len());
        for (outcome, fields) in parsed.into_iter().zip(audited) {
            let result = match outcome {
                Err(status) => Err(status),
                Ok(()) => match stored.next() {
                    Some(Ok(created)) => Ok(created),
                    Some(Err(error)) => Err(status::because(
                        status::store_code(&error),
                        "failed to create entry",
                        &error,
                    )),
                    None => Err(status::plain(
                        Code::Internal,
                        "failed to create entry: the store gave no result",
                    )),
                },
            };
            let result = created(result, output_mask);
            call.audit().item(result.status.as_ref(), || fields);
            results.push(result);
        }
        let response = pb::BatchCreateEntryResponse { results };
        Ok(self.services.written(response).await)
    }

    async fn batch_update_entry(
        &self,
        request: Request<pb::BatchUpdateEntryRequest>,
    ) -> Result<Response<pb::BatchUpdateEntryResponse>, Status> {
        let call = call_of(&request)?;
        let request = request.into_inner();
        let input_mask = request.input_mask.as_ref();
        let output_mask = request.output_mask.as_ref();
        let mut results = Vec::with_capacity(request.entries.len());
        for entry in request.entries {
            let fields = audit::of_entry(&entry, input_mask);
            let result = match self.update(entry, input_mask).await {
                Ok(entry) => UpdateResult {
                    status: Some(status::ok_item()),
                    entry: Some(masked(entry, output_mask)),
                },
                Err(status) => UpdateResult {
                    status: Some(status::item(&status)),
                    entry: None,
                },
            };
            call.audit().item(result.status.as_ref(), || fields);
            results.push(result);
        }
        let response = pb::BatchUpdateEntryResponse { results };
        Ok(self.services.written(response).await)
    }

    async fn batch_delete_entry(
        &self,
        request: Request<pb::BatchDeleteEntryRequest>,
    ) -> Result<Response<pb::BatchDeleteEntryResponse>, Status> {
        let call = call_of(&request)?;
        let ids = request.into_inner().ids;
        let mut results = Vec::with_capacity(ids.len());
        for id in ids {
            let status = match self.delete(&id).await {
                Ok(()) => status::ok_item(),
                Err(status) => status::item(&status),
            };
            call.audit().item(Some(&status), || AuditFields {
                entry_id: Some(id.clone()),
                ..AuditFields::default()
            });
            results.push(DeleteResult {
                status: Some(status),
                id,
            });
        }
        let response = pb::BatchDeleteEntryResponse { results };
        Ok(self.services.written(response).await)
    }

    async fn get_authorized_entries(
        &self,
        request: Request<pb::GetAuthorizedEntriesRequest>,
    ) -> Result<Response<pb::GetAuthorizedEntriesResponse>, Status> {
        let call = call_of(&request)?;
        let id = call.caller_id().map_err(status::call)?;
        let output_mask = request.into_inner().output_mask;
        let entries = self
            .services
            .registry
            .authorized(id)
            .iter()
            .map(|entry| masked(convert::entry::to_pb(entry), output_mask.as_ref()))
            .collect();
        Ok(Response::new(pb::GetAuthorizedEntriesResponse { entries }))
    }

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<pb::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<BoxStream<pb::SyncAuthorizedEntriesResponse>>, Status> {
        let call = call_of(&request)?;
        let id = call.caller_id().map_err(status::call)?;
        let entries = self.services.registry.authorized(id);
        let requests = request.into_inner();
        Ok(Response::new(driven::stream(move |replies| {
            sync::serve(entries, call, requests, replies)
        })))
    }
}

impl Services {
    /// An entry that federates with the own trust domain would stop every agent that gets it from synchronising.
    fn check_federates_with(&self, trust_domains: &[TrustDomain]) -> Result<(), Status> {
        if trust_domains.contains(&self.trust_domain) {
            return Err(status::invalid(&format!(
                "failed to convert entry: invalid federated trust domain: {} is the server's own trust domain",
                self.trust_domain
            )));
        }
        Ok(())
    }
}

fn created(
    result: Result<Created<spiffe_types::entry::Entry>, Status>,
    output_mask: Option<&types::EntryMask>,
) -> CreateResult {
    let (status, entry) = match result {
        Ok(Created::New(entry)) => (status::ok_item(), Some(entry)),
        Ok(Created::Existing(entry)) => (
            status::existing_item("similar entry already exists"),
            Some(entry),
        ),
        Err(status) => (status::item(&status), None),
    };
    CreateResult {
        status: Some(status),
        entry: entry.map(|entry| masked(convert::entry::to_pb(&entry), output_mask)),
    }
}

fn masked(mut entry: types::Entry, output_mask: Option<&types::EntryMask>) -> types::Entry {
    mask::entry(&mut entry, output_mask);
    entry
}

fn note_filter(call: &Call, filter: Option<&pb::list_entries_request::Filter>) {
    let Some(filter) = filter else { return };
    call.audit().note(|fields| {
        fields.spiffe_id = filter.by_spiffe_id.as_ref().map(audit::spiffe_id);
        fields.parent_id = filter.by_parent_id.as_ref().map(audit::spiffe_id);
        fields.hint.clone_from(&filter.by_hint);
        fields.downstream = filter.by_downstream;
        fields.by_selectors = filter
            .by_selectors
            .as_ref()
            .map(|matching| audit::selectors(&matching.selectors));
        fields.federates_with = filter
            .by_federates_with
            .as_ref()
            .map(|matching| matching.trust_domains.join(","));
    });
}
