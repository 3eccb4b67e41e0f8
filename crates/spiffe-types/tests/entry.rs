//! The rules of registration entries and of what they consist of.
#![expect(clippy::unwrap_used, reason = "test support")]

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use spiffe_types::agent::SerialNumber;
use spiffe_types::entry::{
    DnsName, DnsNameError, Entry, EntryError, EntryId, EntryIdError, EntryPatch, NewEntry, Ttl,
    check_wildcard_overlap,
};
use spiffe_types::pem::{self, PemError};
use spiffe_types::selector::SelectorSet;
use spiffe_types::{SpiffeId, TrustDomain};

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&td(), path).unwrap()
}

fn selectors(texts: &[&str]) -> SelectorSet {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn web() -> NewEntry {
    NewEntry::new(
        id("/web"),
        id("/spire/agent/x509pop/1"),
        selectors(&["unix:uid:1"]),
    )
}

fn stored(new: NewEntry) -> Entry {
    new.into_entry(EntryId::parse("random").unwrap(), SystemTime::UNIX_EPOCH)
}

fn said(new: &NewEntry) -> String {
    new.validate(&td()).unwrap_err().to_string()
}

#[test]
fn an_ordinary_entry_breaks_no_rule() {
    assert_eq!(web().validate(&td()), Ok(()));
    assert_eq!(
        NewEntry {
            parent_id: id("/other"),
            ..web()
        }
        .validate(&td()),
        Ok(())
    );
}

#[test]
fn a_broken_rule_is_told_in_the_words_of_spire() {
    assert_eq!(
        said(&NewEntry {
            parent_id: td().id(),
            ..web()
        }),
        r#"invalid parent ID: "spiffe://example.org" is not a member of trust domain "example.org"; path is empty"#
    );
    assert_eq!(
        said(&NewEntry {
            spiffe_id: id("/spire/x"),
            ..web()
        }),
        r#"invalid spiffe ID: "spiffe://example.org/spire/x" is not a workload in trust domain "example.org"; path is in the reserved namespace"#
    );
    assert_eq!(
        said(&NewEntry {
            selectors: SelectorSet::default(),
            ..web()
        }),
        "selector list is empty"
    );
    assert_eq!(
        said(&NewEntry {
            hint: "h".repeat(1025),
            ..web()
        }),
        "hint is too long, max length is 1024 characters"
    );
    assert!(
        NewEntry {
            hint: "h".repeat(1024),
            ..web()
        }
        .validate(&td())
        .is_ok()
    );
}

#[test]
fn storable_svids_have_selectors_of_one_type_and_are_not_kept_from_prefetching() {
    let mixed = NewEntry {
        store_svid: true,
        selectors: selectors(&["a:1", "b:1"]),
        ..web()
    };
    assert_eq!(mixed.validate(&td()), Err(EntryError::MixedSelectorTypes));
    assert!(EntryError::MixedSelectorTypes.is_storage_rule());
    let cold = NewEntry {
        store_svid: true,
        disable_x509_svid_prefetch: true,
        ..web()
    };
    assert_eq!(
        cold.validate(&td()),
        Err(EntryError::StorableWithoutPrefetch)
    );
    assert!(
        NewEntry {
            store_svid: true,
            selectors: selectors(&["a:1", "a:2"]),
            ..web()
        }
        .validate(&td())
        .is_ok()
    );
    assert_eq!(
        EntryError::MixedSelectorTypes.to_string(),
        "datastore-validation: invalid registration entry: selector types must be the same when store SVID is enabled"
    );
}

#[test]
fn entries_are_similar_when_id_parent_and_selectors_are_the_same() {
    let entry = stored(web());
    assert!(entry.is_similar_to(&NewEntry {
        hint: "other".to_owned(),
        admin: true,
        ..web()
    }));
    assert!(!entry.is_similar_to(&NewEntry {
        selectors: selectors(&["unix:uid:1", "unix:uid:2"]),
        ..web()
    }));
    assert!(!entry.is_similar_to(&NewEntry {
        parent_id: id("/other"),
        ..web()
    }));
    assert!(!entry.is_similar_to(&NewEntry {
        spiffe_id: id("/other"),
        ..web()
    }));
}

#[test]
fn an_entry_keeps_the_id_that_was_asked_for() {
    let asked = NewEntry {
        id: Some(EntryId::parse("mine").unwrap()),
        ..web()
    };
    assert_eq!(stored(asked).id.as_str(), "mine");
    assert_eq!(stored(web()).id.as_str(), "random");
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let entry = stored(NewEntry {
        x509_svid_ttl: Ttl::from_seconds(60),
        hint: "old".to_owned(),
        ..web()
    });
    let mut patched = entry.clone();
    EntryPatch::default().apply(&mut patched);
    assert_eq!(patched, entry);
    let patch = EntryPatch {
        x509_svid_ttl: Some(None),
        hint: Some("new".to_owned()),
        ..EntryPatch::default()
    };
    patch.apply(&mut patched);
    assert_eq!(
        patched,
        Entry {
            x509_svid_ttl: None,
            hint: "new".to_owned(),
            ..entry
        }
    );
}

#[test]
fn a_patch_is_held_to_the_rules_of_the_fields_it_names() {
    assert_eq!(EntryPatch::default().validate(&td()), Ok(()));
    let patch = EntryPatch {
        selectors: Some(SelectorSet::default()),
        ..EntryPatch::default()
    };
    assert_eq!(patch.validate(&td()), Err(EntryError::NoSelectors));
    let patch = EntryPatch {
        hint: Some("h".repeat(1025)),
        ..EntryPatch::default()
    };
    assert_eq!(patch.validate(&td()), Err(EntryError::HintTooLong));
}

#[test]
fn of_all_single_characters_an_entry_id_takes_letters_digits_dashes_dots_and_underscores() {
    for character in '\0'..='\u{ff}' {
        let allowed = character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_');
        assert_eq!(
            EntryId::parse(&format!("x{character}")).is_ok(),
            allowed,
            "{character:?}"
        );
    }
    assert!(EntryId::parse(&"x".repeat(255)).is_ok());
    assert_eq!(
        EntryId::parse(&"x".repeat(256)).unwrap_err(),
        EntryIdError::TooLong
    );
    assert_eq!(EntryId::parse("").unwrap_err(), EntryIdError::Empty);
}

#[test]
fn a_lifetime_is_above_zero_and_fits_the_api() {
    assert_eq!(Ttl::from_seconds(0), None);
    assert_eq!(
        Ttl::from_seconds(1).unwrap().duration(),
        Duration::from_secs(1)
    );
    assert_eq!(
        Ttl::from_seconds(2_147_483_647).unwrap().seconds(),
        2_147_483_647
    );
    assert_eq!(Ttl::from_seconds(2_147_483_648), None);
}

#[test]
fn dns_names_in_strict_form_are_taken() {
    for name in [
        "com",
        "example.com",
        "*.example.com",
        "a-hello.com",
        "xn--ls8h.org",
        "xn--mnchen-3ya.de",
        "xn--ihqwcrb4cv8a8dqg056pqjye.example",
        "EXAMPLE.com",
        "1.2",
    ] {
        assert_eq!(DnsName::parse(name).unwrap().as_str(), name);
    }
}

#[test]
fn other_dns_names_are_refused_with_the_words_of_spire() {
    for (name, expected) in [
        ("", "empty or only whitespace"),
        (" ", "empty or only whitespace"),
        ("*.", "empty or only whitespace"),
        (".", "domain ends with dot"),
        ("example.com.", "domain ends with dot"),
        ("*.foo.*.bar", "too many wildcards"),
        ("foo.*.bar", "wildcard must be first label"),
        ("*foo.bar", "wildcard must be first label"),
        ("💩.com", "name must be ascii"),
    ] {
        assert_eq!(
            DnsName::parse(name).unwrap_err().to_string(),
            expected,
            "{name}"
        );
    }
    let long_label = format!("{}.com", "a".repeat(64));
    let long_name = vec!["a".repeat(63); 4].join(".");
    for name in [
        "-hello.com",
        "hello-.com",
        "a..b",
        "a_b.com",
        "a b.com",
        "ab--cd.com",
        "xn--.com",
        "xn--a-.com",
        "xn--99999999999.com",
        &long_label,
        &long_name,
    ] {
        let said = DnsName::parse(name).unwrap_err().to_string();
        assert!(said.starts_with("idna error"), "{name}: {said}");
    }
}

#[test]
fn a_wildcard_may_not_cover_another_name() {
    let check = |names: &[&str]| {
        let names: Vec<_> = names
            .iter()
            .map(|name| DnsName::parse(name).unwrap())
            .collect();
        check_wildcard_overlap(&names)
    };
    assert_eq!(check(&["example.com", "*.example.com"]), Ok(()));
    assert_eq!(
        check(&["example.com", "*.example.com", "foo.bar.example.com"]),
        Ok(())
    );
    for names in [
        ["foo.example.com", "*.example.com"],
        ["*.example.com", "foo.example.com"],
    ] {
        assert_eq!(
            check(&names),
            Err(DnsNameError::Overlap {
                name: "foo.example.com".to_owned()
            })
        );
    }
}

#[test]
fn a_serial_number_is_shown_in_decimal_whatever_its_length() {
    let shown = |bytes: &[u8]| SerialNumber::from_be_bytes(bytes).to_string();
    assert_eq!(shown(&[]), "0");
    assert_eq!(shown(&[0, 0]), "0");
    assert_eq!(shown(&[0, 0x80]), "128");
    assert_eq!(
        shown(&[0xff; 16]),
        "340282366920938463463374607431768211455"
    );
    assert_eq!(shown(&1_000_000_000_u64.to_be_bytes()), "1000000000");
}

#[test]
fn what_is_no_decimal_number_is_no_serial_number() {
    for text in ["", "-1", "+1", "0x10", "1 ", "1.0", &"9".repeat(129)] {
        assert!(text.parse::<SerialNumber>().is_err(), "{text}");
    }
    assert_eq!("007".parse::<SerialNumber>().unwrap().to_string(), "7");
}

#[test]
fn pem_of_another_kind_and_text_between_blocks_are_passed_over() {
    let text = format!(
        "# a comment\n{}between\n{}",
        pem::encode("EC PARAMETERS", &[9]),
        pem::encode("CERTIFICATE", &[1, 2])
    );
    assert_eq!(
        pem::decode_all(&text, pem::CERTIFICATE).unwrap(),
        [[1, 2].as_slice()]
    );
    assert!(matches!(
        pem::decode_all(&text, pem::PRIVATE_KEY),
        Err(PemError::Missing { .. })
    ));
    assert!(matches!(
        pem::decode_all("", pem::CERTIFICATE),
        Err(PemError::Missing { .. })
    ));
}

#[test]
fn broken_pem_is_refused_with_the_line_it_begins_on() {
    let open = "\n-----BEGIN CERTIFICATE-----\nAQI=\n";
    let unterminated = PemError::Unterminated {
        label: "CERTIFICATE".to_owned(),
        line: 2,
    };
    assert_eq!(
        pem::decode_all(open, pem::CERTIFICATE).unwrap_err(),
        unterminated
    );
    let crossed = format!("{open}-----END PRIVATE KEY-----\n");
    assert_eq!(
        pem::decode_all(&crossed, pem::CERTIFICATE).unwrap_err(),
        unterminated
    );
    let garbage = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        pem::decode_all(garbage, pem::CERTIFICATE),
        Err(PemError::Base64 { line: 1, .. })
    ));
}

#[test]
fn lines_of_pem_have_64_characters() {
    let text = pem::encode("CERTIFICATE", &[0; 100]);
    let lengths: Vec<usize> = text.lines().map(str::len).collect();
    assert_eq!(lengths, [27, 64, 64, 8, 25]);
    assert!(
        pem::encode("CERTIFICATE", &[0; 48]).contains(&format!("\n{}\n-----END", "A".repeat(64)))
    );
}

proptest! {
    #[test]
    fn a_serial_number_reads_back_as_itself(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
        let serial = SerialNumber::from_be_bytes(&bytes);
        prop_assert_eq!(serial.to_string().parse::<SerialNumber>().unwrap(), serial);
    }

    #[test]
    fn a_serial_number_is_shown_and_ordered_as_the_number_it_is(a: u128, b: u128) {
        let (x, y) = (SerialNumber::from_be_bytes(&a.to_be_bytes()), SerialNumber::from_be_bytes(&b.to_be_bytes()));
        prop_assert_eq!(x.to_string(), a.to_string());
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
    }

    #[test]
    fn pem_reads_back_as_it_was(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..4)) {
        let text: String = blocks.iter().map(|block| pem::encode("CERTIFICATE", block)).collect();
        prop_assert_eq!(&pem::decode_all(&text, "CERTIFICATE").unwrap(), &blocks);
        let windows = text.replace('\n', "\r\n");
        prop_assert_eq!(pem::decode_all(&windows, "CERTIFICATE").unwrap(), blocks);
    }

    #[test]
    fn any_dns_name_is_refused_or_printed_unchanged(text in "[a-zA-Z0-9*._ -]{0,20}|xn--[a-z0-9-]{0,12}|.*") {
        if let Ok(name) = DnsName::parse(&text) {
            prop_assert_eq!(name.as_str(), text);
        }
    }
}
