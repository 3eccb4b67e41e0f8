//! `entry show`, `entry count`.

use anyhow::{Context as _, bail, ensure};
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::server::entry::v1::{
    CountEntriesRequest, GetEntryRequest, ListEntriesRequest, ListEntriesResponse,
    count_entries_request, list_entries_request,
};
use finial_proto::pb::spire::api::types;
use finial_runtime::cli::{Code, Console, FlagSet, Flags};
use finial_runtime::go_text::quote;

use super::client::{Printed, Server, plural, with_server};
use super::{client, entry_render, id};

const PACKAGE: &str = "spire.api.server.entry.v1";
const PAGE_SIZE: i32 = 500;

fn filter_flags(name: &'static str) -> FlagSet {
    client::flags(name)
        .string("parentID", "", "The parent ID of the entries")
        .string("spiffeID", "", "The SPIFFE ID of the entries")
        .bool("downstream", "Only entries for downstream servers")
        .list("selector", "A type:value selector; may be repeated")
        .list(
            "federatesWith",
            "A trust domain the entries federate with; may be repeated",
        )
        .string(
            "matchFederatesWithOn",
            "superset",
            "How federates-with is compared: exact, any, superset or subset",
        )
        .string(
            "matchSelectorsOn",
            "superset",
            "How selectors are compared: exact, any, superset or subset",
        )
        .string("hint", "", "The hint of the entries")
        .output()
}

/// Flags of `entry show`.
pub(super) fn show_flags() -> FlagSet {
    filter_flags("entry show").string("entryID", "", "The ID of the entry")
}

/// Flags of `entry count`.
pub(super) fn count_flags() -> FlagSet {
    filter_flags("entry count")
}

/// `entry show`
pub(super) fn show(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let mut response = match flags.non_empty("entryID") {
            Some(id) => by_id(flags, &server, id).await?,
            None => by_filter(flags, &server).await?,
        };
        sort(&mut response.entries);
        let name = format!("{PACKAGE}.ListEntriesResponse");
        Printed::message(flags, &name, &response, |response| {
            let mut text = format!(
                "Found {}\n",
                plural(response.entries.len(), "entry", "entries")
            );
            text.extend(response.entries.iter().map(entry_render::entry));
            Ok(Printed::text(text))
        })
    })
}

/// `entry count`
pub(super) fn count(flags: &Flags, console: &mut Console) -> Code {
    with_server(flags, console, async |server| {
        let filter = Filter::of(flags)?;
        let response = EntryClient::new(server.channel.clone())
            .count_entries(CountEntriesRequest {
                filter: Some(count_entries_request::Filter {
                    by_spiffe_id: filter.spiffe_id,
                    by_parent_id: filter.parent_id,
                    by_selectors: filter.selectors,
                    by_federates_with: filter.federates_with,
                    by_hint: filter.hint,
                    by_downstream: filter.downstream,
                }),
            })
            .await
            .map_err(|status| server.error(&status))?
            .into_inner();
        let name = format!("{PACKAGE}.CountEntriesResponse");
        Printed::message(flags, &name, &response, |response| {
            let count = usize::try_from(response.count)?;
            let text = plural(count, "registration entry", "registration entries");
            Ok(Printed::text(text + "\n"))
        })
    })
}

async fn by_id(flags: &Flags, server: &Server, id: &str) -> anyhow::Result<ListEntriesResponse> {
    let alone = ["parentID", "spiffeID"]
        .iter()
        .all(|name| flags.non_empty(name).is_none())
        && flags.list("selector").is_empty();
    ensure!(alone, "the -entryID flag can't be combined with others");
    let entry = EntryClient::new(server.channel.clone())
        .get_entry(GetEntryRequest {
            id: id.to_owned(),
            ..GetEntryRequest::default()
        })
        .await
        .map_err(|status| server.error(&status))
        .with_context(|| format!("error fetching entry ID {id}"))?
        .into_inner();
    Ok(ListEntriesResponse {
        entries: vec![entry],
        ..ListEntriesResponse::default()
    })
}

async fn by_filter(flags: &Flags, server: &Server) -> anyhow::Result<ListEntriesResponse> {
    let filter = Filter::of(flags)?;
    let filter = list_entries_request::Filter {
        by_spiffe_id: filter.spiffe_id,
        by_parent_id: filter.parent_id,
        by_selectors: filter.selectors,
        by_federates_with: filter.federates_with,
        by_hint: filter.hint,
        by_downstream: filter.downstream,
    };
    let mut client = EntryClient::new(server.channel.clone());
    let mut all = ListEntriesResponse::default();
    let mut page_token = String::new();
    loop {
        let page = client
            .list_entries(ListEntriesRequest {
                filter: Some(filter.clone()),
                page_size: PAGE_SIZE,
                page_token,
                ..ListEntriesRequest::default()
            })
            .await
            .map_err(|status| server.error(&status))
            .context("error fetching entries")?
            .into_inner();
        all.entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

#[derive(Debug)]
struct Filter {
    spiffe_id: Option<types::Spiffeid>,
    parent_id: Option<types::Spiffeid>,
    selectors: Option<types::SelectorMatch>,
    federates_with: Option<types::FederatesWithMatch>,
    hint: Option<String>,
    downstream: Option<bool>,
}

impl Filter {
    fn of(flags: &Flags) -> anyhow::Result<Self> {
        let parse = |name: &str, what: &str| {
            flags
                .non_empty(name)
                .map(|text| {
                    id::parse(text).with_context(|| format!("error parsing {what} {}", quote(text)))
                })
                .transpose()
        };
        let parent_id = parse("parentID", "parent ID")?;
        let spiffe_id = parse("spiffeID", "SPIFFE ID")?;
        let selectors = match flags.list("selector") {
            [] => None,
            texts => Some(types::SelectorMatch {
                r#match: match_behavior(flags.string("matchSelectorsOn"))?,
                selectors: id::selectors(texts).context("error parsing selectors")?,
            }),
        };
        let federates_with = match flags.list("federatesWith") {
            [] => None,
            names => Some(types::FederatesWithMatch {
                r#match: match_behavior(flags.string("matchFederatesWithOn"))?,
                trust_domains: names.to_vec(),
            }),
        };
        Ok(Self {
            spiffe_id,
            parent_id,
            selectors,
            federates_with,
            hint: flags.non_empty("hint").map(str::to_owned),
            // As in SPIRE, the filter is always sent: without the flag, entries for downstream servers are not shown.
            downstream: Some(flags.bool("downstream")),
        })
    }
}

/// Both match enums have the same numbers.
fn match_behavior(name: &str) -> anyhow::Result<i32> {
    use types::selector_match::MatchBehavior;
    let behavior = match name {
        "exact" => MatchBehavior::MatchExact,
        "any" => MatchBehavior::MatchAny,
        "superset" => MatchBehavior::MatchSuperset,
        "subset" => MatchBehavior::MatchSubset,
        _ => bail!("match behavior {} unknown", quote(name)),
    };
    Ok(behavior as i32)
}

/// Sorts by SPIFFE ID, parent ID, lifetimes and selectors, which are sorted first.
fn sort(entries: &mut [types::Entry]) {
    for entry in entries.iter_mut() {
        entry
            .selectors
            .sort_by(|a, b| (&a.r#type, &a.value).cmp(&(&b.r#type, &b.value)));
    }
    entries.sort_by_cached_key(|entry| {
        let selectors: Vec<_> = entry
            .selectors
            .iter()
            .map(|selector| (selector.r#type.clone(), selector.value.clone()))
            .collect();
        (
            id::render(entry.spiffe_id.as_ref()),
            id::render(entry.parent_id.as_ref()),
            entry.x509_svid_ttl,
            entry.jwt_svid_ttl,
            selectors.len(),
            selectors,
        )
    });
}
