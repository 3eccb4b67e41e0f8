//! Messages become the types that hold the rules, and back; what is refused is refused in SPIRE's words.
#![expect(clippy::unwrap_used, reason = "test support")]

mod messages;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use finial_proto::convert::{self, ConvertError, denied, time};
use finial_proto::descriptor::methods;
use finial_proto::mask;
use finial_proto::pb::spire::api::types;
use finial_proto::pb::spire::api::types::selector_match::MatchBehavior;
use finial_proto::pb::spire::api::types::{
    AgentMask, BundleMask, EntryMask, SelectorMatch, Spiffeid,
};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PublicKeyData as _};
use spiffe_types::agent::{AttestedAgent, SerialNumber};
use spiffe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use spiffe_types::entry::{Entry, EntryId, EntryPatch, Ttl};
use spiffe_types::selector::SelectorSet;
use spiffe_types::{SpiffeId, TrustDomain};
use tonic::{Code, Status};

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&td(), path).unwrap()
}

fn pb_id(path: &str) -> Spiffeid {
    Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: path.to_owned(),
    }
}

fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn entry() -> Entry {
    Entry {
        id: EntryId::parse("e-1").unwrap(),
        spiffe_id: id("/web"),
        parent_id: id("/spire/agent/x509pop/1"),
        selectors: selectors(&["unix:uid:1", "unix:gid:2"]),
        x509_svid_ttl: Ttl::from_seconds(60),
        jwt_svid_ttl: Ttl::from_seconds(30),
        federates_with: vec![TrustDomain::parse("other.org").unwrap()],
        admin: true,
        downstream: true,
        store_svid: true,
        expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_001)),
        dns_names: vec!["web.example.org".parse().unwrap()],
        hint: "internal".to_owned(),
        revision_number: 7,
        created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001),
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: true,
    }
}

fn new_entry() -> types::Entry {
    types::Entry {
        id: String::new(),
        ..convert::entry::to_pb(&entry())
    }
}

fn certificate() -> Bytes {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    Bytes::copy_from_slice(certificate.der())
}

fn bundle() -> Bundle {
    let key = Bytes::from(KeyPair::generate().unwrap().subject_public_key_info());
    Bundle {
        trust_domain: td(),
        x509_authorities: vec![X509Authority::parse(certificate(), false).unwrap()],
        jwt_authorities: vec![JwtAuthority {
            expires_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_001)),
            ..JwtAuthority::parse("kid", key).unwrap()
        }],
        refresh_hint: Some(Duration::from_mins(5)),
        sequence_number: 3,
    }
}

/// What a client would be told, and with which code.
fn refusal<T: std::fmt::Debug>(result: Result<T, ConvertError>) -> (Code, String) {
    let error = result.unwrap_err();
    (error.code(), error.to_string())
}

#[test]
fn an_entry_comes_back_as_it_was() {
    assert_eq!(
        convert::entry::from_pb(convert::entry::to_pb(&entry())).unwrap(),
        entry()
    );
}

#[test]
fn attributes_that_are_all_false_are_absent() {
    let plain = Entry {
        jwt_svid_include_jti: false,
        ..entry()
    };
    assert_eq!(convert::entry::to_pb(&plain).additional_attributes, None);
}

#[test]
fn an_agent_takes_an_entry_without_what_its_mask_left_out() {
    let mut message = convert::entry::to_pb(&entry());
    mask::entry(
        &mut message,
        Some(&EntryMask {
            spiffe_id: true,
            selectors: true,
            ..EntryMask::default()
        }),
    );
    let read = convert::entry::from_pb(message).unwrap();
    assert_eq!(
        (read.id, read.spiffe_id, read.selectors),
        (entry().id, entry().spiffe_id, entry().selectors)
    );
    assert_eq!(read.parent_id, td().id());
    assert_eq!(read.created_at, SystemTime::UNIX_EPOCH);
}

#[test]
fn a_new_entry_is_what_the_message_says_but_for_what_the_server_sets() {
    let new = convert::entry::new_from_pb(&td(), new_entry()).unwrap();
    assert_eq!(new.id, None);
    let stored = new.into_entry(entry().id, entry().created_at);
    assert_eq!(
        stored,
        Entry {
            revision_number: 0,
            ..entry()
        }
    );
    let asked = types::Entry {
        id: "mine".to_owned(),
        ..new_entry()
    };
    assert_eq!(
        convert::entry::new_from_pb(&td(), asked).unwrap().id,
        Some(EntryId::parse("mine").unwrap())
    );
}

#[test]
fn bad_arguments_of_a_new_entry_are_told_in_the_words_of_spire() {
    let refused = |change: fn(&mut types::Entry)| {
        let mut message = new_entry();
        change(&mut message);
        let (code, text) = refusal(convert::entry::new_from_pb(&td(), message));
        assert_eq!(code, Code::InvalidArgument, "{text}");
        text
    };
    assert_eq!(
        refused(|entry| entry.parent_id = None),
        "invalid parent ID: request must specify SPIFFE ID"
    );
    assert_eq!(
        refused(|entry| entry.parent_id = Some(pb_id(""))),
        r#"invalid parent ID: "spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        refused(|entry| entry.parent_id = Some(Spiffeid {
            trust_domain: "b".to_owned(),
            path: "/x".to_owned()
        })),
        r#"invalid parent ID: "spiffe://b/x" is not a member of trust domain "example.org""#
    );
    assert_eq!(
        refused(|entry| entry.spiffe_id = None),
        "invalid spiffe ID: request must specify SPIFFE ID"
    );
    assert_eq!(
        refused(|entry| entry.spiffe_id = Some(pb_id("web"))),
        "invalid spiffe ID: path must have a leading slash"
    );
    assert_eq!(
        refused(|entry| entry.spiffe_id = Some(Spiffeid::default())),
        "invalid spiffe ID: trust domain is missing"
    );
    assert_eq!(
        refused(|entry| entry.spiffe_id = Some(pb_id("/spire"))),
        r#"invalid spiffe ID: "spiffe://example.org/spire" is not a workload in trust domain "example.org"; path is in the reserved namespace"#
    );
    assert_eq!(
        refused(|entry| entry.selectors.clear()),
        "selector list is empty"
    );
    assert_eq!(
        refused(|entry| entry.selectors[0].r#type.clear()),
        "missing selector type"
    );
    assert_eq!(
        refused(|entry| entry.selectors[0].r#type.push(':')),
        "selector type contains ':'"
    );
    assert_eq!(
        refused(|entry| entry.selectors[0].value.clear()),
        "missing selector value"
    );
    assert_eq!(
        refused(|entry| entry.dns_names.push("a.*.b".to_owned())),
        "invalid DNS name: wildcard must be first label"
    );
    assert_eq!(
        refused(|entry| entry.federates_with.push(String::new())),
        "invalid federated trust domain: trust domain is missing"
    );
    assert_eq!(
        refused(|entry| entry.hint = "h".repeat(1025)),
        "hint is too long, max length is 1024 characters"
    );
}

#[test]
fn rules_that_spire_keeps_in_its_data_store_are_internal_errors() {
    let refused = |change: fn(&mut types::Entry)| {
        let mut message = new_entry();
        change(&mut message);
        let (code, text) = refusal(convert::entry::new_from_pb(&td(), message));
        assert_eq!(code, Code::Internal, "{text}");
        text
    };
    let prefix = "datastore-validation: invalid registration entry:";
    assert_eq!(
        refused(|entry| entry.id = "x".repeat(256)),
        format!("{prefix} entry ID too long")
    );
    assert_eq!(
        refused(|entry| entry.id = "a b".to_owned()),
        format!("{prefix} entry ID contains invalid characters")
    );
    assert_eq!(
        refused(|entry| entry.x509_svid_ttl = -1),
        format!("{prefix} X509SvidTtl is not set")
    );
    assert_eq!(
        refused(|entry| entry.jwt_svid_ttl = -1),
        format!("{prefix} JwtSvidTtl is not set")
    );
    assert_eq!(
        refused(|entry| entry.selectors[0].r#type.push('2')),
        format!("{prefix} selector types must be the same when store SVID is enabled")
    );
}

#[test]
fn without_a_mask_an_update_replaces_every_field_a_client_may_set() {
    let emptied = types::Entry {
        id: "e-1".to_owned(),
        spiffe_id: Some(pb_id("/new")),
        parent_id: Some(pb_id("/parent")),
        selectors: convert::selector::to_pb(&selectors(&["a:1"])),
        ..types::Entry::default()
    };
    let (id_of_entry, patch) = convert::entry::patch_from_pb(&td(), emptied, None).unwrap();
    assert_eq!(id_of_entry, entry().id);
    let mut patched = entry();
    patch.apply(&mut patched);
    let expected = Entry {
        id: entry().id,
        spiffe_id: id("/new"),
        parent_id: id("/parent"),
        selectors: selectors(&["a:1"]),
        x509_svid_ttl: None,
        jwt_svid_ttl: None,
        federates_with: Vec::new(),
        admin: false,
        downstream: false,
        store_svid: false,
        expires_at: None,
        dns_names: Vec::new(),
        hint: String::new(),
        revision_number: entry().revision_number,
        created_at: entry().created_at,
        disable_x509_svid_prefetch: false,
        jwt_svid_include_jti: false,
    };
    assert_eq!(patched, expected);
}

#[test]
fn with_a_mask_an_update_reads_and_checks_the_named_fields_alone() {
    let message = types::Entry {
        id: "e-1".to_owned(),
        spiffe_id: Some(pb_id("/spire/bad")),
        hint: "new".to_owned(),
        ..types::Entry::default()
    };
    let mask = EntryMask {
        hint: true,
        ..EntryMask::default()
    };
    let (_, patch) = convert::entry::patch_from_pb(&td(), message.clone(), Some(&mask)).unwrap();
    assert_eq!(
        patch,
        EntryPatch {
            hint: Some("new".to_owned()),
            ..EntryPatch::default()
        }
    );
    let mask = EntryMask {
        spiffe_id: true,
        ..EntryMask::default()
    };
    let (code, _) = refusal(convert::entry::patch_from_pb(&td(), message, Some(&mask)));
    assert_eq!(code, Code::InvalidArgument);
}

#[test]
fn an_update_of_an_impossible_entry_finds_none() {
    for id in ["", "a b"] {
        let message = types::Entry {
            id: id.to_owned(),
            ..new_entry()
        };
        assert_eq!(
            refusal(convert::entry::patch_from_pb(&td(), message, None)).0,
            Code::NotFound,
            "{id:?}"
        );
    }
}

#[test]
fn a_bundle_comes_back_as_it_was() {
    let bundle = bundle();
    let message = convert::bundle::to_pb(&bundle);
    assert_eq!(convert::bundle::from_pb(&message).unwrap(), bundle);
}

#[test]
fn only_the_own_server_says_that_an_authority_is_tainted() {
    let mut tainted = bundle();
    tainted.x509_authorities[0].tainted = true;
    tainted.jwt_authorities[0].tainted = true;
    let message = convert::bundle::to_pb(&tainted);
    assert!(message.x509_authorities[0].tainted && message.jwt_authorities[0].tainted);
    assert_eq!(convert::bundle::from_own_server(&message).unwrap(), tainted);
    let read = convert::bundle::from_pb(&message).unwrap();
    assert!(!read.x509_authorities[0].tainted && !read.jwt_authorities[0].tainted);
    assert!(!convert::bundle::x509_from_pb(&message.x509_authorities).unwrap()[0].tainted);
}

#[test]
fn several_certificates_in_one_field_are_several_authorities() {
    let both = [certificate(), certificate()];
    let message = types::X509Certificate {
        asn1: both.concat().into(),
        tainted: false,
    };
    let read = convert::bundle::x509_from_pb(&[message]).unwrap();
    assert!(read.iter().map(X509Authority::der).eq(&both));
}

#[test]
fn bad_bundles_are_told_in_the_words_of_spire() {
    let refused = |change: fn(&mut types::Bundle)| {
        let mut message = convert::bundle::to_pb(&bundle());
        change(&mut message);
        let (code, text) = refusal(convert::bundle::from_pb(&message));
        assert_eq!(code, Code::InvalidArgument);
        text
    };
    assert_eq!(
        refused(|bundle| bundle.trust_domain.clear()),
        "invalid trust domain: trust domain is missing"
    );
    assert_eq!(
        refused(|bundle| bundle.jwt_authorities[0].key_id.clear()),
        "unable to parse JWT authority: missing key ID"
    );
    assert!(
        refused(|bundle| bundle.x509_authorities[0].asn1 = Bytes::from_static(b"x"))
            .starts_with("unable to parse X.509 authority: ")
    );
    assert!(
        refused(|bundle| bundle.jwt_authorities[0].public_key = Bytes::new())
            .starts_with("unable to parse JWT authority: ")
    );
}

#[test]
fn a_banned_agent_has_no_serial_number() {
    let agent = AttestedAgent {
        id: id("/spire/agent/x509pop/1"),
        attestation_type: "x509pop".to_owned(),
        serial: Some(SerialNumber::from_be_bytes(&[1, 0])),
        expires_at: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        new_serial: Some(SerialNumber::from_be_bytes(&[2])),
        new_expires_at: None,
        can_reattest: true,
        selectors: selectors(&["x509pop:ca:1"]),
        agent_version: "1.2.3".to_owned(),
    };
    let message = convert::agent::to_pb(&agent);
    assert_eq!(
        (message.x509svid_serial_number.as_str(), message.banned),
        ("256", false)
    );
    assert_eq!(message.x509svid_expires_at, 5);
    let message = convert::agent::to_pb(&AttestedAgent {
        serial: None,
        ..agent
    });
    assert_eq!(
        (message.x509svid_serial_number.as_str(), message.banned),
        ("", true)
    );
}

#[test]
fn roles_of_ids_are_checked() {
    let td = td();
    assert_eq!(
        convert::id::member_id(&td, Some(&pb_id("/spire"))).unwrap(),
        id("/spire")
    );
    assert_eq!(
        convert::id::agent_id(&td, Some(&pb_id("/spire/agent/a"))).unwrap(),
        id("/spire/agent/a")
    );
    assert_eq!(
        convert::id::workload_id(&td, Some(&pb_id("/w"))).unwrap(),
        id("/w")
    );
    assert!(convert::id::agent_id(&td, Some(&pb_id("/w"))).is_err());
    assert!(convert::id::workload_id(&td, Some(&pb_id("/spire/agent/a"))).is_err());
    assert_eq!(
        refusal(convert::id::from_pb(None)).1,
        "request must specify SPIFFE ID"
    );
    assert_eq!(
        convert::id::from_pb(Some(&convert::id::to_pb(&td.id()))).unwrap(),
        td.id()
    );
}

#[test]
fn a_filter_names_something_to_compare_with() {
    let filter = |texts: &[&str]| SelectorMatch {
        selectors: convert::selector::to_pb(&selectors(texts)),
        r#match: MatchBehavior::MatchSuperset.into(),
    };
    let read = convert::selector::filter_from_pb(&filter(&["a:1"])).unwrap();
    assert_eq!(read, (selectors(&["a:1"]), MatchBehavior::MatchSuperset));
    assert_eq!(
        refusal(convert::selector::filter_from_pb(&filter(&[]))).1,
        "empty selector set"
    );
    assert_eq!(
        convert::selector::match_from_pb(&filter(&[])).unwrap().0,
        SelectorSet::default()
    );
    let nobody = types::FederatesWithMatch::default();
    assert_eq!(
        refusal(convert::id::federates_with_filter(&nobody)).1,
        "empty trust domain set"
    );
}
