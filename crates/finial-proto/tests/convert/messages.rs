//! Masks, denials, the list of methods, and times.

use super::*;

#[test]
fn a_mask_that_asks_for_nothing_leaves_the_key() {
    let mut message = convert::entry::to_pb(&entry());
    mask::entry(&mut message, Some(&EntryMask::default()));
    assert_eq!(
        message,
        types::Entry {
            id: "e-1".to_owned(),
            ..types::Entry::default()
        }
    );

    let mut message = convert::bundle::to_pb(&bundle());
    mask::bundle(&mut message, Some(&BundleMask::default()));
    assert_eq!(
        message,
        types::Bundle {
            trust_domain: "example.org".to_owned(),
            ..types::Bundle::default()
        }
    );

    let mut message = types::Agent {
        id: Some(pb_id("/a")),
        banned: true,
        ..types::Agent::default()
    };
    mask::agent(&mut message, Some(&AgentMask::default()));
    assert_eq!(
        message,
        types::Agent {
            id: Some(pb_id("/a")),
            ..types::Agent::default()
        }
    );
}

#[test]
fn without_a_mask_nothing_is_cleared() {
    let mut message = convert::entry::to_pb(&entry());
    mask::entry(&mut message, None);
    assert_eq!(message, convert::entry::to_pb(&entry()));
}

#[test]
fn a_mask_keeps_what_it_names() {
    let mut message = convert::entry::to_pb(&entry());
    mask::entry(
        &mut message,
        Some(&EntryMask {
            hint: true,
            admin: true,
            ..EntryMask::default()
        }),
    );
    let expected = types::Entry {
        id: "e-1".to_owned(),
        hint: "internal".to_owned(),
        admin: true,
        ..types::Entry::default()
    };
    assert_eq!(message, expected);
}

#[test]
fn a_denial_carries_its_reason() {
    for reason in [
        denied::Reason::AgentExpired,
        denied::Reason::AgentNotAttested,
        denied::Reason::AgentNotActive,
        denied::Reason::AgentBanned,
        denied::Reason::AgentMustReattest,
    ] {
        let status = denied::encode(reason, "no");
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, "no")
        );
        assert_eq!(denied::decode(&status), Some(reason));
    }
}

#[test]
fn a_denial_is_laid_out_as_a_google_rpc_status() {
    let status = denied::encode(denied::Reason::AgentBanned, "no");
    let mut expected = vec![0x08, 7, 0x12, 2, b'n', b'o', 0x1a, 62, 0x0a, 56];
    expected.extend(b"type.googleapis.com/spire.api.types.PermissionDeniedDetails");
    let any_length = u8::try_from(expected.len() - 10).unwrap();
    expected[9] = any_length;
    expected[7] = any_length + 2 + 4;
    expected.extend([0x12, 2, 0x08, 4]);
    assert_eq!(status.details(), expected);
}

#[test]
fn no_reason_is_found_where_there_is_none() {
    assert_eq!(denied::decode(&Status::permission_denied("no")), None);
    let details =
        Bytes::copy_from_slice(denied::encode(denied::Reason::AgentBanned, "no").details());
    assert_eq!(
        denied::decode(&Status::with_details(
            Code::Unavailable,
            "no",
            details.clone()
        )),
        None
    );
    let garbage = Status::with_details(Code::PermissionDenied, "no", details.slice(3..));
    assert_eq!(denied::decode(&garbage), None);
}

#[test]
fn every_service_has_all_its_rpcs() {
    let count = |service: &str| {
        methods()
            .iter()
            .filter(|method| method.service == service)
            .count()
    };
    for (service, expected) in [
        ("spire.api.server.agent.v1.Agent", 9),
        ("spire.api.server.bundle.v1.Bundle", 11),
        ("spire.api.server.entry.v1.Entry", 8),
        ("spire.api.server.svid.v1.SVID", 7),
        ("spire.api.server.trustdomain.v1.TrustDomain", 6),
        ("spire.api.server.localauthority.v1.LocalAuthority", 17),
        ("spire.api.server.debug.v1.Debug", 1),
        ("spire.api.server.logger.v1.Logger", 3),
        ("finial.sync.v1.Sync", 1),
    ] {
        assert_eq!(count(service), expected, "{service}");
    }
    assert_eq!(
        methods()
            .iter()
            .filter(|method| method.service.starts_with("spire.api.server."))
            .count(),
        62
    );
}

#[test]
fn rpcs_are_listed_with_their_paths_and_streams() {
    let all = methods();
    let find = |full: &str| all.iter().find(|method| method.full == full).unwrap();
    let attest = find("/spire.api.server.agent.v1.Agent/AttestAgent");
    assert!(attest.client_streaming && attest.server_streaming);
    let fetch = find("/SpiffeWorkloadAPI/FetchX509SVID");
    assert!(!fetch.client_streaming && fetch.server_streaming);
    assert_eq!(
        (fetch.service.as_str(), fetch.name.as_str()),
        ("SpiffeWorkloadAPI", "FetchX509SVID")
    );
    let list = find("/spire.api.server.entry.v1.Entry/ListEntries");
    assert!(!list.client_streaming && !list.server_streaming);
}

#[test]
fn moments_between_two_seconds_count_to_the_one_before() {
    let half = Duration::from_millis(500);
    assert_eq!(time::to_unix(SystemTime::UNIX_EPOCH + half), 0);
    assert_eq!(time::to_unix(SystemTime::UNIX_EPOCH - half), -1);
    assert_eq!(time::optional_to_unix(None), 0);
    assert_eq!(time::optional_from_unix(0), None);
}

proptest! {
    #[test]
    fn a_moment_in_whole_seconds_comes_back_as_it_was(seconds: i64) {
        prop_assert_eq!(time::to_unix(time::from_unix(seconds)), seconds);
    }
}
