//! Filters of lists, as requests state them.

use finial_datastore::{
    AgentFilter, EntryFilter, Page, SelectorFilter, SetMatch, TrustDomainFilter,
};
use finial_proto::convert::{self, ConvertError};
use finial_proto::pb::spire::api::server::agent::v1::{count_agents_request, list_agents_request};
use finial_proto::pb::spire::api::server::entry::v1::{
    count_entries_request, list_entries_request,
};
use finial_proto::pb::spire::api::types::{self, federates_with_match, selector_match};
use spiffe_types::id::TrustDomain;
use tonic::Status;

use super::status;

/// The page a request asks for; without a size, everything is sent.
pub(super) fn page(size: i32, token: String) -> Option<Page> {
    let size = u32::try_from(size).ok().filter(|size| *size > 0)?;
    Some(Page::after(size, token))
}

/// The agents a list is asked for.
pub(super) fn agents(filter: Option<list_agents_request::Filter>) -> Result<AgentFilter, Status> {
    let Some(filter) = filter else {
        return Ok(AgentFilter::default());
    };
    let selectors = filter
        .by_selector_match
        .as_ref()
        .map(selectors)
        .transpose()?;
    Ok(AgentFilter {
        selectors,
        attestation_type: (!filter.by_attestation_type.is_empty())
            .then_some(filter.by_attestation_type),
        can_reattest: filter.by_can_reattest,
        banned: filter.by_banned,
        expires_before: time(&filter.by_expires_before),
    })
}

/// The same filter, as a request to count states it.
pub(super) fn counted_agents(
    filter: Option<count_agents_request::Filter>,
) -> Option<list_agents_request::Filter> {
    filter.map(|filter| list_agents_request::Filter {
        by_attestation_type: filter.by_attestation_type,
        by_selector_match: filter.by_selector_match,
        by_banned: filter.by_banned,
        by_can_reattest: filter.by_can_reattest,
        by_expires_before: filter.by_expires_before,
    })
}

/// The entries a list is asked for.
pub(super) fn entries(
    trust_domain: &TrustDomain,
    filter: Option<list_entries_request::Filter>,
) -> Result<EntryFilter, Status> {
    let Some(filter) = filter else {
        return Ok(EntryFilter::default());
    };
    let malformed =
        |message: &'static str| move |error: ConvertError| status::invalid_because(message, &error);
    let parent_id = filter
        .by_parent_id
        .map(|id| convert::id::member_id(trust_domain, Some(&id)))
        .transpose()
        .map_err(malformed("malformed parent ID filter"))?;
    let spiffe_id = filter
        .by_spiffe_id
        .map(|id| convert::id::workload_id(trust_domain, Some(&id)))
        .transpose()
        .map_err(malformed("malformed SPIFFE ID filter"))?;
    let selectors = filter
        .by_selectors
        .map(|filter| convert::selector::filter_from_pb(&filter))
        .transpose()
        .map_err(malformed("malformed selectors filter"))?;
    let federates_with = filter
        .by_federates_with
        .map(|filter| convert::id::federates_with_filter(&filter))
        .transpose()
        .map_err(malformed("malformed federates with filter"))?;
    Ok(EntryFilter {
        spiffe_id,
        parent_id,
        selectors: selectors.map(|(selectors, behavior)| SelectorFilter {
            selectors,
            matching: by_selectors(behavior),
        }),
        federates_with: federates_with.map(|(trust_domains, behavior)| TrustDomainFilter {
            trust_domains: trust_domains.into_iter().collect(),
            matching: by_trust_domains(behavior),
        }),
        // An empty hint does not restrict, as everywhere in this API.
        hint: filter.by_hint.filter(|hint| !hint.is_empty()),
        downstream: filter.by_downstream.unwrap_or(false),
    })
}

/// The same filter, as a request to count states it.
pub(super) fn counted_entries(
    filter: Option<count_entries_request::Filter>,
) -> Option<list_entries_request::Filter> {
    filter.map(|filter| list_entries_request::Filter {
        by_spiffe_id: filter.by_spiffe_id,
        by_parent_id: filter.by_parent_id,
        by_selectors: filter.by_selectors,
        by_federates_with: filter.by_federates_with,
        by_hint: filter.by_hint,
        by_downstream: filter.by_downstream,
    })
}

fn selectors(filter: &types::SelectorMatch) -> Result<SelectorFilter, Status> {
    let (selectors, behavior) = convert::selector::match_from_pb(filter)
        .map_err(|error| status::invalid_because("failed to parse selectors", &error))?;
    Ok(SelectorFilter {
        selectors,
        matching: by_selectors(behavior),
    })
}

const fn by_selectors(behavior: selector_match::MatchBehavior) -> SetMatch {
    match behavior {
        selector_match::MatchBehavior::MatchExact => SetMatch::Exact,
        selector_match::MatchBehavior::MatchSubset => SetMatch::Subset,
        selector_match::MatchBehavior::MatchSuperset => SetMatch::Superset,
        selector_match::MatchBehavior::MatchAny => SetMatch::Any,
    }
}

const fn by_trust_domains(behavior: federates_with_match::MatchBehavior) -> SetMatch {
    match behavior {
        federates_with_match::MatchBehavior::MatchExact => SetMatch::Exact,
        federates_with_match::MatchBehavior::MatchSubset => SetMatch::Subset,
        federates_with_match::MatchBehavior::MatchSuperset => SetMatch::Superset,
        federates_with_match::MatchBehavior::MatchAny => SetMatch::Any,
    }
}

/// `2006-01-02 15:04:05 -0700 -07`, as the command line sends it; anything else is ignored.
fn time(text: &str) -> Option<std::time::SystemTime> {
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let (date_and_offset, zone) = text.rsplit_once(' ')?;
    if zone.is_empty() {
        return None;
    }
    time::OffsetDateTime::parse(date_and_offset, format)
        .ok()
        .map(std::time::SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_time_is_read_as_the_command_line_writes_it() {
        assert_eq!(
            time("1970-01-01 01:00:10 +0100 +01"),
            Some(UNIX_EPOCH + Duration::from_secs(10))
        );
    }

    #[test]
    fn a_time_that_cannot_be_read_is_ignored() {
        assert_eq!(time("tomorrow"), None);
        assert_eq!(time(""), None);
    }

    #[test]
    fn a_page_needs_a_size() {
        assert_eq!(page(0, "5".to_owned()), None);
        assert_eq!(page(-1, String::new()), None);
        assert_eq!(page(10, String::new()), Some(Page::first(10)));
    }
}
