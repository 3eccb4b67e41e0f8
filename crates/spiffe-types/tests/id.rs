//! The grammar and the limits of SPIFFE IDs and trust domains (SPIFFE-ID §2).
#![expect(clippy::unwrap_used, reason = "test support")]

use proptest::prelude::*;
use spiffe_types::id::{
    IdError, MAX_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, MembershipError, SpiffeId, TrustDomain,
};

fn td(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn refusal(text: &str) -> IdError {
    SpiffeId::parse(text).unwrap_err()
}

#[test]
fn an_id_is_taken_apart_into_trust_domain_and_path() {
    let id = id("spiffe://example.org/ns/prod/sa/web");
    assert_eq!(id.trust_domain_name(), "example.org");
    assert_eq!(id.trust_domain(), td("example.org"));
    assert_eq!(id.path(), "/ns/prod/sa/web");
    assert_eq!(id.as_str(), "spiffe://example.org/ns/prod/sa/web");
}

#[test]
fn an_id_without_a_path_is_that_of_its_trust_domain() {
    let id = id("spiffe://example.org");
    assert_eq!(id.path(), "");
    assert_eq!(id, td("example.org").id());
}

// ID-1
#[test]
fn every_scheme_but_spiffe_is_refused() {
    for text in [
        "http://example.org/x",
        "spiffe:/example.org",
        "example.org/x",
        "//example.org/x",
        "spiffe:",
    ] {
        assert_eq!(refusal(text), IdError::WrongScheme, "{text}");
    }
    assert_eq!(refusal(""), IdError::Empty);
}

// ID-2
#[test]
fn an_id_without_a_trust_domain_is_refused() {
    assert_eq!(refusal("spiffe://"), IdError::MissingTrustDomain);
    assert_eq!(refusal("spiffe:///path"), IdError::MissingTrustDomain);
    assert_eq!(
        TrustDomain::parse("").unwrap_err(),
        IdError::MissingTrustDomain
    );
}

// ID-3
#[test]
fn a_query_and_a_fragment_are_refused_in_the_path_and_in_the_trust_domain() {
    for text in ["spiffe://example.org/a?b=c", "spiffe://example.org/a#b"] {
        assert_eq!(refusal(text), IdError::BadPathCharacter, "{text}");
    }
    for text in ["spiffe://example.org?b", "spiffe://example.org#b"] {
        assert_eq!(refusal(text), IdError::BadTrustDomainCharacter, "{text}");
    }
}

// ID-4
#[test]
fn user_info_and_a_port_are_refused() {
    for text in [
        "spiffe://user@example.org/a",
        "spiffe://user:pass@example.org/a",
        "spiffe://example.org:8443/a",
    ] {
        assert_eq!(refusal(text), IdError::BadTrustDomainCharacter, "{text}");
    }
}

// ID-5 and ID-12: what is refused cannot be taken for something else.
#[test]
fn of_all_single_characters_a_trust_domain_takes_lower_case_letters_digits_dots_dashes_and_underscores()
 {
    for character in '\0'..='\u{ff}' {
        let allowed = matches!(character, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
        let expected = if allowed {
            None
        } else {
            Some(IdError::BadTrustDomainCharacter)
        };
        let name = format!("x{character}");
        if character != '/' {
            assert_eq!(
                SpiffeId::parse(&format!("spiffe://{name}/p")).err(),
                expected,
                "{character:?}"
            );
        }
        assert_eq!(TrustDomain::parse(&name).err(), expected, "{character:?}");
    }
    assert_eq!(
        refusal("spiffe://ex%61mple.org/a"),
        IdError::BadTrustDomainCharacter
    );
}

// ID-12
#[test]
fn an_upper_case_scheme_or_trust_domain_is_refused_rather_than_folded() {
    assert_eq!(refusal("SPIFFE://example.org/a"), IdError::WrongScheme);
    assert_eq!(
        refusal("spiffe://Example.org/a"),
        IdError::BadTrustDomainCharacter
    );
    assert_eq!(
        TrustDomain::parse("EXAMPLE.ORG").unwrap_err(),
        IdError::BadTrustDomainCharacter
    );
}

// ID-12
#[test]
fn paths_that_differ_in_case_are_different() {
    assert_ne!(id("spiffe://example.org/a"), id("spiffe://example.org/A"));
}

// ID-6
#[test]
fn trust_domains_that_look_like_addresses_or_odd_dns_names_are_names_like_others() {
    for name in [
        "10.0.0.1",
        "..",
        "a..b",
        "-",
        "_",
        "999.999.999.999",
        ".example.org.",
        "127.1",
    ] {
        assert_eq!(id(&format!("spiffe://{name}/a")).trust_domain_name(), name);
        assert_eq!(td(name).as_str(), name);
    }
    assert_eq!(
        TrustDomain::parse("[::1]").unwrap_err(),
        IdError::BadTrustDomainCharacter
    );
}

// ID-7
#[test]
fn of_all_single_characters_a_path_segment_takes_letters_digits_dots_dashes_and_underscores() {
    let domain = td("example.org");
    for character in '\0'..='\u{ff}' {
        let allowed = matches!(character, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
        let expected = if allowed {
            None
        } else {
            Some(IdError::BadPathCharacter)
        };
        let segment = format!("x{character}y");
        assert_eq!(
            SpiffeId::from_segments(&domain, &[&segment]).err(),
            expected,
            "{character:?}"
        );
        if character != '/' {
            let text = format!("spiffe://example.org/{segment}/z");
            assert_eq!(SpiffeId::parse(&text).err(), expected, "{character:?}");
        }
    }
    assert_eq!(
        refusal("spiffe://example.org/a%62c"),
        IdError::BadPathCharacter
    );
}

// ID-8
#[test]
fn empty_segments_dot_segments_and_trailing_slashes_are_refused() {
    for (path, expected) in [
        ("/", IdError::TrailingSlash),
        ("/a/", IdError::TrailingSlash),
        ("//", IdError::EmptySegment),
        ("//a", IdError::EmptySegment),
        ("/a//b", IdError::EmptySegment),
        ("/.", IdError::DotSegment),
        ("/..", IdError::DotSegment),
        ("/a/./b", IdError::DotSegment),
        ("/a/../b", IdError::DotSegment),
        ("/a/..", IdError::DotSegment),
    ] {
        assert_eq!(
            refusal(&format!("spiffe://example.org{path}")),
            expected,
            "{path}"
        );
        assert_eq!(
            SpiffeId::from_path(&td("example.org"), path).unwrap_err(),
            expected,
            "{path}"
        );
    }
    for path in ["/...", "/.a", "/a.", "/..a/b"] {
        assert_eq!(id(&format!("spiffe://example.org{path}")).path(), path);
    }
}

#[test]
fn a_path_begins_with_a_slash_or_is_empty() {
    let domain = td("example.org");
    assert_eq!(
        SpiffeId::from_path(&domain, "a").unwrap_err(),
        IdError::NoLeadingSlash
    );
    assert_eq!(SpiffeId::from_path(&domain, "").unwrap(), domain.id());
    assert_eq!(SpiffeId::from_segments(&domain, &[]).unwrap(), domain.id());
    assert_eq!(
        SpiffeId::from_segments(&domain, &["a", ""]).unwrap_err(),
        IdError::EmptySegment
    );
    assert_eq!(
        SpiffeId::from_segments(&domain, &["a", ".."]).unwrap_err(),
        IdError::DotSegment
    );
}

// ID-9 and ID-10
#[test]
fn an_id_of_2048_bytes_is_taken_and_one_more_is_too_long() {
    let head = "spiffe://example.org/";
    let longest = format!("{head}{}", "a".repeat(MAX_ID_BYTES - head.len()));
    assert_eq!(id(&longest).as_str(), longest);
    assert_eq!(refusal(&format!("{longest}a")), IdError::TooLong);
    let segment = "a".repeat(MAX_ID_BYTES);
    let domain = td("example.org");
    assert_eq!(
        SpiffeId::from_segments(&domain, &[&segment]).unwrap_err(),
        IdError::TooLong
    );
    assert_eq!(
        SpiffeId::from_path(&domain, &format!("/{segment}")).unwrap_err(),
        IdError::TooLong
    );
}

// ID-11
#[test]
fn a_trust_domain_of_255_bytes_is_taken_and_one_more_is_too_long() {
    let longest = "a".repeat(MAX_TRUST_DOMAIN_BYTES);
    assert_eq!(td(&longest).as_str(), longest);
    assert_eq!(
        id(&format!("spiffe://{longest}/x")).trust_domain_name(),
        longest
    );
    assert_eq!(
        TrustDomain::parse(&format!("{longest}a")).unwrap_err(),
        IdError::TrustDomainTooLong
    );
    assert_eq!(
        refusal(&format!("spiffe://{longest}a/x")),
        IdError::TrustDomainTooLong
    );
}

#[test]
fn a_trust_domain_is_read_from_any_of_its_ids() {
    assert_eq!(td("spiffe://example.org"), td("example.org"));
    assert_eq!(td("spiffe://example.org/web"), td("example.org"));
    assert_eq!(
        TrustDomain::parse("http://example.org").unwrap_err(),
        IdError::WrongScheme
    );
}

// ID-15
#[test]
fn errors_read_as_those_of_go_spiffe() {
    for (text, expected) in [
        ("", "cannot be empty"),
        ("x", "scheme is missing or invalid"),
        ("spiffe://", "trust domain is missing"),
        (
            "spiffe://X",
            "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores",
        ),
        (
            "spiffe://x/ ",
            "path segment characters are limited to letters, numbers, dots, dashes, and underscores",
        ),
        ("spiffe://x/.", "path cannot contain dot segments"),
        ("spiffe://x//y", "path cannot contain empty segments"),
        ("spiffe://x/y/", "path cannot have a trailing slash"),
    ] {
        assert_eq!(refusal(text).to_string(), expected);
    }
    assert_eq!(
        IdError::NoLeadingSlash.to_string(),
        "path must have a leading slash"
    );
}

#[test]
fn the_reserved_namespace_is_spire_and_below() {
    for (path, reserved, agent) in [
        ("/spire", true, false),
        ("/spire/agent", true, false),
        ("/spire/agent/x509pop/abc", true, true),
        ("/spire/server", true, false),
        ("/spirealike", false, false),
        ("/web/spire", false, false),
        ("", false, false),
    ] {
        let id = SpiffeId::from_path(&td("example.org"), path).unwrap();
        assert_eq!(
            (id.is_reserved(), id.is_agent()),
            (reserved, agent),
            "{path}"
        );
    }
    assert_eq!(
        SpiffeId::server_id(&td("example.org")),
        id("spiffe://example.org/spire/server")
    );
}

#[test]
fn roles_are_refused_with_the_words_of_spire() {
    let domain = td("example.org");
    let said = |result: Result<(), MembershipError>| result.unwrap_err().to_string();
    assert_eq!(
        said(id("spiffe://other.org/a").check_member(&domain)),
        r#""spiffe://other.org/a" is not a member of trust domain "example.org""#
    );
    assert_eq!(
        said(id("spiffe://example.org").check_member(&domain)),
        r#""spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        said(id("spiffe://example.org").check_agent(&domain)),
        r#""spiffe://example.org" is not an agent in trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        said(id("spiffe://example.org/a").check_agent(&domain)),
        r#""spiffe://example.org/a" is not an agent in trust domain "example.org"; path is not in the agent namespace"#
    );
    assert_eq!(
        said(id("spiffe://example.org").check_workload(&domain)),
        r#""spiffe://example.org" is not a workload in trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        said(id("spiffe://example.org/spire/x").check_workload(&domain)),
        r#""spiffe://example.org/spire/x" is not a workload in trust domain "example.org"; path is in the reserved namespace"#
    );
}

#[test]
fn an_id_of_a_longer_trust_domain_is_no_member_of_its_prefix() {
    assert!(!id("spiffe://example.org.evil/a").is_member_of(&td("example.org")));
    assert!(!id("spiffe://example.or/g").is_member_of(&td("example.org")));
    assert!(id("spiffe://example.org/a").is_member_of(&td("example.org")));
}

#[test]
fn ids_and_trust_domains_are_strings_in_json() {
    let id = id("spiffe://example.org/a");
    let text = serde_json::to_string(&id).unwrap();
    assert_eq!(text, r#""spiffe://example.org/a""#);
    assert_eq!(serde_json::from_str::<SpiffeId>(&text).unwrap(), id);
    assert!(serde_json::from_str::<SpiffeId>(r#""spiffe://""#).is_err());
    assert_eq!(
        serde_json::to_string(&td("example.org")).unwrap(),
        r#""example.org""#
    );
}

proptest! {
    #[test]
    fn what_was_assembled_reads_back_as_itself(
        name in "[a-z0-9._-]{1,40}",
        segments in prop::collection::vec("[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}", 0..6),
    ) {
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let domain = td(&name);
        let assembled = SpiffeId::from_segments(&domain, &segments).unwrap();
        prop_assert_eq!(&SpiffeId::parse(assembled.as_str()).unwrap(), &assembled);
        prop_assert_eq!(&SpiffeId::from_path(&domain, assembled.path()).unwrap(), &assembled);
        prop_assert_eq!(&assembled.trust_domain(), &domain);
        prop_assert!(assembled.is_member_of(&domain));
    }

    #[test]
    fn any_text_is_refused_or_printed_unchanged(text in ".*") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
        }
        if let Ok(domain) = TrustDomain::parse(&text) {
            prop_assert!(domain.as_str() == text || domain.id().as_str().len() <= text.len());
        }
    }

    #[test]
    fn any_near_miss_is_refused_or_printed_unchanged(text in "spiffe://[a-zA.:/@?#%_-]{0,12}") {
        if let Ok(id) = SpiffeId::parse(&text) {
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
        }
    }
}
