//! The MUSTs of X509-SVID that a chain of certificates can break by itself.
#![expect(clippy::unwrap_used, reason = "test support")]

#[path = "support/certificate.rs"]
mod certificate;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use certificate::{
    CLIENT_AUTH, CRL_SIGN, DIGITAL_SIGNATURE, Draft, KEY_CERT_SIGN, SEQUENCE, SERVER_AUTH, URI,
    extension, tlv,
};
use proptest::prelude::*;
use spiffe_types::SpiffeId;
use spiffe_types::id::IdError;
use spiffe_types::svid::x509::{
    CertificateError, X509Svid, X509SvidError, concatenate, parse_der_sequence,
};

const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const WEB: &str = "spiffe://example.org/web";

fn parse(drafts: &[Draft]) -> Result<X509Svid, X509SvidError> {
    X509Svid::parse(drafts.iter().map(Draft::der).collect())
}

fn web() -> Draft {
    Draft::leaf(WEB)
}

fn signer() -> Draft {
    Draft::signer("spiffe://example.org")
}

#[test]
fn a_leaf_and_its_signer_make_an_svid() {
    let mut leaf = web();
    leaf.names.push((DNS, "web.example.org".to_owned()));
    let svid = parse(&[leaf, signer()]).unwrap();
    assert_eq!(*svid.id(), SpiffeId::parse(WEB).unwrap());
    assert_eq!(svid.chain().len(), 2);
    assert_eq!(svid.serial().to_string(), "256");
    assert_eq!(
        svid.not_before(),
        SystemTime::UNIX_EPOCH + Duration::from_hours(490_896)
    );
    assert_eq!(
        svid.not_after(),
        SystemTime::UNIX_EPOCH + Duration::from_hours(499_656)
    );
    assert_eq!(svid.subject_key_id(), Some([0xab; 20].as_slice()));
    assert_eq!(svid.authority_key_id().unwrap().as_str(), "cd".repeat(20));
    assert_eq!(svid.dns_names(), ["web.example.org"]);
}

#[test]
fn the_chain_reads_back_from_its_concatenation() {
    let svid = parse(&[web(), signer()]).unwrap();
    let chain = parse_der_sequence(&svid.chain_der()).unwrap();
    assert_eq!(X509Svid::parse(chain).unwrap(), svid);
}

#[test]
fn no_certificates_make_no_svid() {
    assert_eq!(parse(&[]).unwrap_err(), X509SvidError::EmptyChain);
}

// X509-1
#[test]
fn a_leaf_needs_a_uri_name() {
    let leaf = || Draft {
        names: Vec::new(),
        ..web()
    };
    assert_eq!(parse(&[leaf()]).unwrap_err(), X509SvidError::NoUri);
    let leaf = Draft {
        names: vec![(DNS, "web.example.org".to_owned())],
        ..web()
    };
    assert_eq!(parse(&[leaf]).unwrap_err(), X509SvidError::NoUri);
}

// X509-1
#[test]
fn names_of_other_kinds_may_stand_beside_the_uri() {
    let mut leaf = web();
    leaf.names.insert(0, (DNS, "a.example.org".to_owned()));
    leaf.names.push((DNS, "b.example.org".to_owned()));
    leaf.names.push((EMAIL, "web@example.org".to_owned()));
    assert_eq!(
        parse(&[leaf]).unwrap().dns_names(),
        ["a.example.org", "b.example.org"]
    );
}

// X509-2
#[test]
fn a_second_uri_is_refused_even_when_it_is_the_same() {
    for other in [WEB, "spiffe://example.org/db", "https://example.org"] {
        let mut leaf = web();
        leaf.names.push((URI, other.to_owned()));
        assert_eq!(
            parse(&[leaf]).unwrap_err(),
            X509SvidError::ManyUris,
            "{other}"
        );
    }
}

// X509-14
#[test]
fn a_uri_that_is_no_spiffe_id_is_refused() {
    for (uri, source) in [
        ("https://example.org/web", IdError::WrongScheme),
        ("spiffe://example.org/web/", IdError::TrailingSlash),
        ("spiffe://example.org/w%65b", IdError::BadPathCharacter),
        ("SPIFFE://example.org/web", IdError::WrongScheme),
    ] {
        assert_eq!(
            parse(&[Draft::leaf(uri)]).unwrap_err(),
            X509SvidError::InvalidId { source },
            "{uri}"
        );
    }
}

// X509-3 and X509-14
#[test]
fn a_leaf_with_the_id_of_a_trust_domain_is_refused() {
    assert_eq!(
        parse(&[Draft::leaf("spiffe://example.org")]).unwrap_err(),
        X509SvidError::LeafWithoutPath
    );
}

// X509-4
#[test]
fn without_a_subject_the_names_must_be_critical() {
    let draft = |names_critical| Draft {
        subject: false,
        names_critical,
        ..web()
    };
    assert_eq!(
        parse(&[draft(false)]).unwrap_err(),
        X509SvidError::NameNotCritical
    );
    assert!(parse(&[draft(true)]).is_ok());
}

// X509-7 and X509-14
#[test]
fn a_leaf_that_is_a_ca_is_refused() {
    let leaf = Draft {
        ca: Some(true),
        ..web()
    };
    assert_eq!(parse(&[leaf]).unwrap_err(), X509SvidError::LeafIsCa);
    assert!(
        parse(&[Draft { ca: None, ..web() }]).is_ok(),
        "cA is false unless said otherwise"
    );
}

// X509-9
#[test]
fn each_certificate_needs_a_critical_key_usage() {
    let none = |draft: Draft| Draft {
        key_usage: None,
        ..draft
    };
    let uncritical = |draft: Draft| Draft {
        key_usage_critical: false,
        ..draft
    };
    assert_eq!(
        parse(&[none(web())]).unwrap_err(),
        X509SvidError::NoKeyUsage { position: 0 }
    );
    assert_eq!(
        parse(&[uncritical(web())]).unwrap_err(),
        X509SvidError::KeyUsageNotCritical { position: 0 }
    );
    assert_eq!(
        parse(&[web(), none(signer())]).unwrap_err(),
        X509SvidError::NoKeyUsage { position: 1 }
    );
    assert_eq!(
        parse(&[web(), signer(), uncritical(signer())]).unwrap_err(),
        X509SvidError::KeyUsageNotCritical { position: 2 }
    );
}

// X509-10
#[test]
fn a_signer_must_be_a_ca_that_may_sign_certificates() {
    for ca in [None, Some(false)] {
        let signer = Draft { ca, ..signer() };
        assert_eq!(
            parse(&[web(), signer]).unwrap_err(),
            X509SvidError::SignerIsNotCa { position: 1 }
        );
    }
    let crl_only = Draft {
        key_usage: Some(CRL_SIGN),
        ..signer()
    };
    assert_eq!(
        parse(&[web(), crl_only]).unwrap_err(),
        X509SvidError::SignerCannotSign { position: 1 }
    );
    let certificates_only = Draft {
        key_usage: Some(KEY_CERT_SIGN),
        ..signer()
    };
    assert!(parse(&[web(), certificates_only]).is_ok());
}

// X509-11 and X509-14
#[test]
fn a_leaf_may_sign_data_but_neither_certificates_nor_revocation_lists() {
    const KEY_ENCIPHERMENT: u8 = 0x20;
    const KEY_AGREEMENT: u8 = 0x08;
    let parse = |usage| {
        parse(&[Draft {
            key_usage: Some(usage),
            ..web()
        }])
    };
    assert_eq!(
        parse(KEY_ENCIPHERMENT).unwrap_err(),
        X509SvidError::LeafCannotSign
    );
    assert_eq!(
        parse(DIGITAL_SIGNATURE | KEY_CERT_SIGN).unwrap_err(),
        X509SvidError::LeafSignsCertificates
    );
    assert_eq!(
        parse(DIGITAL_SIGNATURE | CRL_SIGN).unwrap_err(),
        X509SvidError::LeafSignsCrls
    );
    assert!(parse(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT).is_ok());
}

// X509-12
#[test]
fn an_extended_key_usage_names_both_sides_of_tls() {
    let parse = |extended_key_usage| {
        parse(&[Draft {
            extended_key_usage,
            ..web()
        }])
    };
    assert!(parse(None).is_ok());
    assert!(parse(Some(vec![CLIENT_AUTH, SERVER_AUTH])).is_ok());
    assert_eq!(
        parse(Some(vec![SERVER_AUTH])).unwrap_err(),
        X509SvidError::LeafExtendedKeyUsage
    );
    assert_eq!(
        parse(Some(vec![CLIENT_AUTH])).unwrap_err(),
        X509SvidError::LeafExtendedKeyUsage
    );
}

// X509-5 and X509-6
#[test]
fn a_signer_with_an_id_has_no_path() {
    let error = parse(&[web(), Draft::signer("spiffe://example.org/ca")]).unwrap_err();
    let id = SpiffeId::parse("spiffe://example.org/ca").unwrap();
    assert_eq!(error, X509SvidError::SignerWithPath { position: 1, id });
    let source = IdError::MissingTrustDomain;
    assert_eq!(
        parse(&[web(), Draft::signer("spiffe:///ca")]).unwrap_err(),
        X509SvidError::SignerInvalidId {
            position: 1,
            source
        }
    );
}

// X509-5
#[test]
fn a_signer_need_not_be_an_svid() {
    let nameless = Draft {
        names: Vec::new(),
        ..signer()
    };
    assert!(parse(&[web(), nameless, Draft::signer("https://pki.example.org")]).is_ok());
}

// X509-2
#[test]
fn a_signer_with_an_id_and_another_uri_is_refused() {
    let mut signer = signer();
    signer
        .names
        .push((URI, "https://pki.example.org".to_owned()));
    assert_eq!(
        parse(&[web(), signer]).unwrap_err(),
        X509SvidError::SignerManyUris { position: 1 }
    );
}

#[test]
fn an_extension_that_cannot_be_read_is_refused_wherever_it_stands() {
    let broken = |draft: Draft| Draft {
        key_usage: None,
        extra: vec![extension(15, &[0x05, 0x00], true)],
        ..draft
    };
    for (chain, position) in [(vec![broken(web())], 0), (vec![web(), broken(signer())], 1)] {
        let error = parse(&chain).unwrap_err();
        let source = CertificateError::MalformedExtension {
            oid: "2.5.29.15".to_owned(),
        };
        assert_eq!(error, X509SvidError::Certificate { position, source });
    }
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    let names = tlv(
        SEQUENCE,
        &[tlv(URI, WEB.as_bytes()), tlv(DNS, &[0xff, 0xfe])].concat(),
    );
    let leaf = Draft {
        names: Vec::new(),
        extra: vec![extension(17, &names, false)],
        ..web()
    };
    assert!(matches!(
        parse(&[leaf]).unwrap_err(),
        X509SvidError::Certificate { position: 0, .. }
    ));
}

#[test]
fn an_extension_that_stands_twice_is_refused() {
    let names = tlv(SEQUENCE, &tlv(URI, b"spiffe://example.org/db"));
    let leaf = Draft {
        extra: vec![extension(17, &names, false)],
        ..web()
    };
    let source = CertificateError::DuplicateExtension;
    assert_eq!(
        parse(&[leaf]).unwrap_err(),
        X509SvidError::Certificate {
            position: 0,
            source
        }
    );
}

#[test]
fn bytes_after_a_certificate_are_refused() {
    let mut der = web().der().to_vec();
    der.push(0);
    let source = CertificateError::TrailingData { count: 1 };
    let error = X509Svid::parse(vec![Bytes::from(der)]).unwrap_err();
    assert_eq!(
        error,
        X509SvidError::Certificate {
            position: 0,
            source
        }
    );
}

#[test]
fn a_truncated_certificate_is_refused_at_every_length() {
    let der = web().der();
    for length in 0..der.len() {
        assert!(
            X509Svid::parse(vec![der.slice(..length)]).is_err(),
            "{length}"
        );
    }
}

#[test]
fn lengths_beyond_the_input_and_lengths_not_in_their_shortest_form_are_no_der() {
    assert_eq!(parse_der_sequence(&[]).unwrap(), Vec::<Bytes>::new());
    for (der, offset) in [
        (&[0x30, 0x01][..], 0),
        (&[0x30, 0x00, 0x31, 0x00], 2),
        (&[0x30, 0x80, 0x00, 0x00], 0),
        (&[0x30, 0x81, 0x01, 0x00], 0),
        (&[0x30, 0x82, 0x00, 0x80], 0),
        (&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], 0),
        (&[0x30, 0x00, 0x30], 2),
    ] {
        assert_eq!(
            parse_der_sequence(der).unwrap_err().offset,
            offset,
            "{der:02x?}"
        );
    }
}

proptest! {
    #[test]
    fn elements_read_back_from_their_concatenation(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
        let elements: Vec<Bytes> = contents.iter().map(|content| Bytes::from(tlv(SEQUENCE, content))).collect();
        prop_assert_eq!(parse_der_sequence(&concatenate(&elements)).unwrap(), elements);
    }

    #[test]
    fn a_flipped_bit_never_panics(position in 0_usize..400, bit in 0_u8..8) {
        let mut der = web().der().to_vec();
        let position = position % der.len();
        der[position] ^= 1 << bit;
        drop(X509Svid::parse(vec![Bytes::from(der)]));
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(der in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(parse_der_sequence(&der));
        prop_assert!(X509Svid::parse(vec![Bytes::from(der)]).is_err());
    }
}
