//! What was found, as messages.

use std::time::SystemTime;

use finial_plugin::workload::Workload;
use finial_proto::convert;
use finial_proto::pb::finial::agent::explain::v1 as pb;
use finial_proto::pb::finial::agent::explain::v1::r#match::SvidState;
use finial_proto::pb::spire::api::types;
use finial_runtime::log::chain;
use spiffe_types::entry::Entry;
use spiffe_types::selector::{Selector, SelectorSet};
use spiffe_types::svid::x509::X509Svid;

use super::find;
use crate::cache::{Cache, IssuedSvid, Match, NearMiss};
use crate::workload::attest::{Answer, AttestorFailure};

pub(super) fn process(workload: &Workload) -> pb::Process {
    pb::Process {
        pid: workload.pid(),
        uid: workload.uid(),
        gid: workload.gid(),
        path: workload
            .exe_path()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        container_id: find::container_of(workload).unwrap_or_default(),
    }
}

pub(super) fn attestor(answer: &Answer) -> pb::Attestor {
    let (selectors, failure) = match &answer.result {
        Ok(found) => {
            let found: SelectorSet = found.iter().cloned().collect();
            let selectors = convert::selector::to_pb(&found);
            (selectors, String::new())
        }
        Err(error) => (Vec::new(), chain(error).to_string()),
    };
    pb::Attestor {
        name: answer.attestor.clone(),
        selectors,
        failure,
    }
}

pub(super) fn matched(matched: &Match, now: SystemTime) -> pb::Match {
    let svid = matched.identity.svid.as_deref();
    let state = match svid {
        Some(svid) if svid.is_expired(now) => SvidState::Expired,
        Some(_) => SvidState::Valid,
        None if matched.is_wanted => SvidState::Pending,
        None => SvidState::OnDemand,
    };
    pb::Match {
        entry: Some(entry(&matched.identity.entry)),
        svid_state: state.into(),
        svid: svid.map(self::svid),
        renewing: svid.is_some() && matched.is_wanted,
    }
}

/// Every near miss, best first: what lacks least, then what the process has most of, then what it has with another value.
pub(super) fn near_misses(
    cache: &Cache,
    selectors: &SelectorSet,
    failures: &[AttestorFailure],
) -> Vec<pb::NearMiss> {
    let mut misses: Vec<_> = cache
        .near_misses(selectors)
        .iter()
        .map(|miss| {
            let shown = near_miss(miss, selectors, failures);
            let strange = shown
                .missing
                .iter()
                .filter(|missing| missing.instead.is_none());
            let rank = (
                shown.missing.len(),
                std::cmp::Reverse(miss.held()),
                strange.count(),
            );
            (rank, shown)
        })
        .collect();
    misses.sort_by_key(|(rank, _)| *rank);
    misses.into_iter().map(|(_, shown)| shown).collect()
}

fn near_miss(
    miss: &NearMiss,
    selectors: &SelectorSet,
    failures: &[AttestorFailure],
) -> pb::NearMiss {
    let missing = miss.missing.iter().map(|selector| pb::MissingSelector {
        instead: instead_of(selector, selectors).map(self::selector),
        unknown: failures
            .iter()
            .any(|failure| failure.attestor == selector.kind()),
        selector: Some(self::selector(selector)),
    });
    pb::NearMiss {
        missing: missing.collect(),
        entry: Some(entry(&miss.entry)),
    }
}

/// The selector the process has that differs in the last part only, as another value of a label does.
fn instead_of<'a>(missing: &Selector, selectors: &'a SelectorSet) -> Option<&'a Selector> {
    let name = name_of(missing)?;
    selectors
        .iter()
        .find(|selector| selector.kind() == missing.kind() && name_of(selector) == Some(name))
}

fn name_of(selector: &Selector) -> Option<&str> {
    let value = selector.value();
    let last = match value.split_once(':') {
        // The value of a label or variable may hold any character: what names it comes first.
        Some(("label", rest)) => "label:".len() + rest.find(':')?,
        Some(("env", rest)) => "env:".len() + rest.find('=')?,
        _ => value.rfind([':', '='])?,
    };
    value.get(..last)
}

fn entry(entry: &Entry) -> pb::Entry {
    pb::Entry {
        id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        parent_id: entry.parent_id.to_string(),
        selectors: convert::selector::to_pb(&entry.selectors),
        dns_names: entry.dns_names.iter().map(ToString::to_string).collect(),
        hint: entry.hint.clone(),
    }
}

fn selector(selector: &Selector) -> types::Selector {
    types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    }
}

fn svid(svid: &IssuedSvid) -> pb::Svid {
    // It was verified when it came: what cannot be read now is left out.
    let leaf = X509Svid::parse(svid.chain.clone()).ok();
    pb::Svid {
        serial: leaf
            .as_ref()
            .map(|leaf| leaf.serial().to_string())
            .unwrap_or_default(),
        not_before: convert::time::to_unix(svid.not_before),
        not_after: convert::time::to_unix(svid.not_after),
        renew_at: convert::time::to_unix(svid.renew_at),
        dns_names: leaf
            .map(|leaf| leaf.dns_names().to_vec())
            .unwrap_or_default(),
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::fixtures::selectors;

    #[test]
    fn another_value_of_the_same_thing_is_named() {
        let held = selectors(&[
            "unix:uid:1000",
            "docker:label:app:web:1",
            "docker:env:MODE=a=b",
            "docker:image_id:web:1",
        ]);
        let instead =
            |text: &str| instead_of(&text.parse().unwrap(), &held).map(ToString::to_string);

        assert_eq!(instead("unix:uid:0").as_deref(), Some("unix:uid:1000"));
        assert_eq!(
            instead("docker:label:app:web").as_deref(),
            Some("docker:label:app:web:1")
        );
        assert_eq!(
            instead("docker:env:MODE=c").as_deref(),
            Some("docker:env:MODE=a=b")
        );
        assert_eq!(instead("docker:label:team:web"), None);
        assert_eq!(instead("unix:gid:0"), None);
        assert_eq!(instead("k8s:ns:a"), None);
    }
}
