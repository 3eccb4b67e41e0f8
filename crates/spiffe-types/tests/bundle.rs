//! Bundles and their document (SPIFFE Trust Domain and Bundle §4, X509-SVID §6, JWT-SVID §5).
#![expect(clippy::unwrap_used, reason = "test support")]

#[path = "support/certificate.rs"]
mod certificate;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use certificate::Draft;
use proptest::prelude::*;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, PublicKeyData as _,
};
use serde_json::{Value, json};
use spiffe_types::TrustDomain;
use spiffe_types::bundle::jwks::{JwksError, from_json, from_json_strict, jwt_to_json, to_json};
use spiffe_types::bundle::{AuthorityId, Bundle, JwtAuthority, JwtAuthorityError, X509Authority};
use spiffe_types::pem;

fn td() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn authority() -> X509Authority {
    X509Authority::parse(Draft::signer("spiffe://example.org").der(), false).unwrap()
}

fn jwt(key_id: &str) -> JwtAuthority {
    let key = KeyPair::generate().unwrap();
    JwtAuthority::parse(key_id, Bytes::from(key.subject_public_key_info())).unwrap()
}

fn full() -> Bundle {
    Bundle {
        x509_authorities: vec![authority(), authority()],
        jwt_authorities: vec![jwt("one"), jwt("two")],
        refresh_hint: Some(Duration::from_mins(5)),
        sequence_number: 42,
        ..Bundle::empty(td())
    }
}

fn document(bundle: &Bundle) -> Value {
    serde_json::from_str(&to_json(bundle)).unwrap()
}

fn read(document: &Value) -> Result<Bundle, JwksError> {
    from_json(&td(), &document.to_string())
}

fn read_strictly(document: &Value) -> Result<Bundle, JwksError> {
    from_json_strict(&td(), &document.to_string())
}

// BUN-2, BUN-3 and BUN-9
#[test]
fn a_bundle_reads_back_from_its_document_with_its_trust_domain_sequence_and_hint() {
    let bundle = full();
    assert_eq!(from_json(&td(), &to_json(&bundle)).unwrap(), bundle);
}

#[test]
fn read_as_spire_does_a_bundle_comes_back_without_its_sequence() {
    let bundle = full();
    let unnumbered = Bundle {
        sequence_number: 0,
        ..bundle.clone()
    };
    assert_eq!(
        from_json_strict(&td(), &to_json(&bundle)).unwrap(),
        unnumbered
    );
}

#[test]
fn the_document_is_laid_out_as_spire_lays_it_out() {
    let bundle = Bundle {
        x509_authorities: vec![authority()],
        jwt_authorities: vec![jwt("one")],
        ..full()
    };
    let document = document(&bundle);
    let member = |key: usize, name: &str| document["keys"][key][name].as_str().unwrap().to_owned();
    let expected = format!(
        r#"{{
    "keys": [
        {{
            "use": "x509-svid",
            "kty": "EC",
            "crv": "P-256",
            "x": "{}",
            "y": "{}",
            "x5c": [
                "{}"
            ]
        }},
        {{
            "use": "jwt-svid",
            "kty": "EC",
            "kid": "one",
            "crv": "P-256",
            "x": "{}",
            "y": "{}"
        }}
    ],
    "spiffe_sequence": 42,
    "spiffe_refresh_hint": 300
}}"#,
        member(0, "x"),
        member(0, "y"),
        STANDARD.encode(bundle.x509_authorities[0].der()),
        member(1, "x"),
        member(1, "y"),
    );
    assert_eq!(to_json(&bundle), expected);
}

#[test]
fn a_sequence_or_hint_of_zero_is_left_out() {
    assert_eq!(to_json(&Bundle::empty(td())), "{\n    \"keys\": []\n}");
}

#[test]
fn jwt_bundles_of_the_workload_api_are_plain_jwk_sets() {
    let document: Value = serde_json::from_str(&jwt_to_json(&full())).unwrap();
    assert_eq!(
        document.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["keys"]
    );
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(
        keys.iter()
            .map(|key| key["kid"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert!(
        keys.iter()
            .all(|key| key.get("use").is_none() && key.get("x5c").is_none())
    );
}

#[test]
fn keys_of_every_kind_read_back_as_they_were() {
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let algorithms = [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ECDSA_P521_SHA512,
        &PKCS_ED25519,
    ];
    let others = algorithms.map(|algorithm| KeyPair::generate_for(algorithm).unwrap());
    for key in [rsa].iter().chain(&others) {
        let authority =
            X509Authority::parse(Draft::signer("spiffe://example.org").der_with(key), false)
                .unwrap();
        let spki = Bytes::from(key.subject_public_key_info());
        let bundle = Bundle {
            x509_authorities: vec![authority],
            jwt_authorities: vec![JwtAuthority::parse("key", spki).unwrap()],
            ..Bundle::empty(td())
        };
        assert_eq!(from_json_strict(&td(), &to_json(&bundle)).unwrap(), bundle);
    }
}

// BUN-1
#[test]
fn unknown_members_are_passed_over() {
    let bundle = full();
    let mut document = document(&bundle);
    document["something"] = json!({"else": [1, 2]});
    document["keys"][0]["alg"] = json!("ES256");
    document["keys"][3]["key_ops"] = json!(["verify"]);
    assert_eq!(read(&document).unwrap(), bundle);
}

// BUN-2 and BUN-3
#[test]
fn sequence_and_hint_are_optional_but_whole_numbers() {
    let empty = |member: &str, value: Value| read(&json!({ "keys": [], member: value }));
    assert_eq!(read(&json!({ "keys": [] })).unwrap(), Bundle::empty(td()));
    for value in [json!(-1), json!(1.5), json!("7")] {
        assert!(
            matches!(
                empty("spiffe_sequence", value.clone()),
                Err(JwksError::Json { .. })
            ),
            "{value}"
        );
        assert!(
            matches!(
                empty("spiffe_refresh_hint", value.clone()),
                Err(JwksError::Json { .. })
            ),
            "{value}"
        );
    }
}

// BUN-4
#[test]
fn a_document_without_keys_is_refused() {
    for document in [
        json!({}),
        json!({ "keys": null }),
        json!({ "spiffe_sequence": 1 }),
    ] {
        assert_eq!(read(&document).unwrap_err(), JwksError::NoKeys);
        assert_eq!(read_strictly(&document).unwrap_err(), JwksError::NoKeys);
    }
    assert!(matches!(
        read(&json!({ "keys": {} })),
        Err(JwksError::Json { .. })
    ));
    assert!(matches!(
        from_json(&td(), "keys"),
        Err(JwksError::Json { .. })
    ));
}

// BUN-4 and BUN-6
#[test]
fn keys_of_an_unknown_type_or_use_are_passed_over() {
    let bundle = full();
    let mut document = document(&bundle);
    let keys = document["keys"].as_array_mut().unwrap();
    let template = keys[2].clone();
    for (member, value) in [
        ("kty", json!("AKP")),
        ("kty", Value::Null),
        ("use", json!("other")),
        ("use", json!("JWT-SVID")),
        ("use", Value::Null),
        ("use", json!("wit-svid")),
        ("crv", json!("secp256k1")),
    ] {
        let mut key = template.clone();
        key["kid"] = json!("ignored");
        key[member] = value;
        keys.push(key);
    }
    let mut other_x509 = keys[0].clone();
    other_x509["kty"] = json!("AKP");
    other_x509["x5c"] = json!([STANDARD.encode(authority().der())]);
    keys.push(other_x509);
    assert_eq!(read(&document).unwrap(), bundle);
}

// BUN-5
#[test]
fn a_document_without_usable_keys_trusts_nobody() {
    let bundle = read(&json!({ "keys": [{ "kty": "EC", "use": "other" }] })).unwrap();
    assert_eq!(bundle, Bundle::empty(td()));
}

// X509-15
#[test]
fn an_x509_entry_is_written_with_one_certificate_and_without_a_key_id() {
    let document = document(&full());
    let key = &document["keys"][0];
    assert_eq!(key["use"], "x509-svid");
    assert_eq!(key.get("kid"), None);
    assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
}

// X509-16
#[test]
fn x509_entries_without_a_certificate_are_passed_over() {
    for x5c in [Value::Null, json!([])] {
        let mut document = document(&full());
        document["keys"][0]["x5c"] = x5c;
        assert_eq!(read(&document).unwrap().x509_authorities.len(), 1);
    }
    let mut document = document(&full());
    document["keys"][0].as_object_mut().unwrap().remove("x5c");
    assert_eq!(read(&document).unwrap().x509_authorities.len(), 1);
}

// X509-16
#[test]
fn of_several_certificates_in_an_entry_the_first_counts() {
    let bundle = full();
    let mut document = document(&bundle);
    let other = STANDARD.encode(authority().der());
    document["keys"][0]["x5c"]
        .as_array_mut()
        .unwrap()
        .push(json!(other));
    assert_eq!(read(&document).unwrap(), bundle);
}

// JWT-10
#[test]
fn a_jwt_key_without_an_id_is_refused() {
    for kid in [Value::Null, json!("")] {
        let mut document = document(&full());
        document["keys"][2]["kid"] = kid;
        let error = JwksError::MissingKeyId {
            index: 2,
            usage: "jwt-svid",
        };
        assert_eq!(read(&document).unwrap_err(), error);
        assert_eq!(read_strictly(&document).unwrap_err(), error);
    }
}

#[test]
fn a_key_with_a_wrong_coordinate_is_refused() {
    for (member, value) in [("x", json!("AAAA")), ("y", Value::Null), ("x", json!("!"))] {
        let mut document = document(&full());
        document["keys"][2][member] = value;
        assert_eq!(
            read(&document).unwrap_err(),
            JwksError::MalformedKey { index: 2 }
        );
    }
}

#[test]
fn the_strict_reader_refuses_what_spire_refuses_in_its_words() {
    let said = |change: fn(&mut Value)| {
        let mut document = document(&full());
        change(&mut document["keys"][0]);
        read_strictly(&document).unwrap_err().to_string()
    };
    assert_eq!(
        said(|key| key["use"] = json!("other")),
        r#"unrecognized use "other" for key entry 0"#
    );
    assert_eq!(
        said(|key| key["use"] = json!("")),
        "missing use for key entry 0"
    );
    assert_eq!(
        said(|key| key["use"] = Value::Null),
        "missing use for key entry 0"
    );
    assert_eq!(
        said(|key| key["x5c"] = json!([])),
        "expected a single certificate in x509-svid entry 0; got 0"
    );
    assert_eq!(
        said(|key| key["x5c"] = json!([key["x5c"][0], key["x5c"][0]])),
        "expected a single certificate in x509-svid entry 0; got 2"
    );
    assert_eq!(
        said(|key| key["use"] = json!("jwt-svid")),
        "missing key ID in jwt-svid entry 0"
    );
    assert_eq!(
        said(|key| key["use"] = json!("wit-svid")),
        "missing key ID in wit-svid entry 0"
    );
    assert_eq!(
        said(|key| key["kty"] = json!("AKP")),
        "malformed or unsupported public key in key entry 0"
    );
}

#[test]
fn the_strict_reader_refuses_a_certificate_of_another_key() {
    let mut document = document(&full());
    document["keys"][0]["x5c"] = document["keys"][1]["x5c"].clone();
    assert_eq!(
        read_strictly(&document).unwrap_err(),
        JwksError::KeyMismatch { index: 0 }
    );
}

#[test]
fn an_authority_that_stands_twice_is_kept_once() {
    let bundle = Bundle {
        x509_authorities: vec![authority()],
        jwt_authorities: vec![jwt("one")],
        ..full()
    };
    let mut document = document(&bundle);
    let keys = document["keys"].as_array_mut().unwrap();
    keys.extend(keys.clone());
    assert_eq!(read(&document).unwrap(), bundle);
}

#[test]
fn an_authority_is_named_by_its_subject_key_identifier() {
    assert_eq!(authority().id().as_str(), "ab".repeat(20));
    assert_eq!(
        AuthorityId::parse(&"AB".repeat(20)).unwrap(),
        *authority().id()
    );
    for text in ["", "a", "xy", "ab "] {
        assert!(AuthorityId::parse(text).is_err(), "{text}");
    }
}

#[test]
fn an_authority_without_the_extension_is_named_by_the_sha1_digest_of_its_key_bits() {
    let der = pem::decode_all(WITHOUT_KEY_ID, pem::CERTIFICATE)
        .unwrap()
        .remove(0);
    let authority = X509Authority::parse(der, true).unwrap();
    assert_eq!(
        authority.id().as_str(),
        "f003d2e38e7fbfc9fa10df3e8567fd6835badd38"
    );
    assert!(authority.tainted);
}

#[test]
fn a_jwt_authority_needs_a_key_id_and_a_pkix_key() {
    let spki = Bytes::from(KeyPair::generate().unwrap().subject_public_key_info());
    assert_eq!(
        JwtAuthority::parse("", spki.clone()).unwrap_err(),
        JwtAuthorityError::MissingKeyId
    );
    assert_eq!(
        JwtAuthority::parse("k", spki.slice(1..)).unwrap_err(),
        JwtAuthorityError::MalformedKey
    );
    let mut longer = spki.to_vec();
    longer.push(0);
    assert_eq!(
        JwtAuthority::parse("k", Bytes::from(longer)).unwrap_err(),
        JwtAuthorityError::MalformedKey
    );
}

#[test]
fn a_bundle_finds_its_authorities_and_concatenates_them() {
    let bundle = full();
    let (first, second) = (&bundle.x509_authorities[0], &bundle.x509_authorities[1]);
    assert!(bundle.has_x509(first.id()) && !bundle.has_x509(&AuthorityId::from_key_id(&[1])));
    assert_eq!(
        bundle.x509_der_concat(),
        [first.der().as_ref(), second.der().as_ref()].concat()
    );
    assert_eq!(bundle.find_jwt("two"), Some(&bundle.jwt_authorities[1]));
    assert_eq!(bundle.find_jwt("three"), None);
}

/// A CA without a subject key identifier; the digest in the test is OpenSSL's.
const WITHOUT_KEY_ID: &str = "\
-----BEGIN CERTIFICATE-----
MIIBRTCB66ADAgECAhQwFJIZoJj+JhfLF85shjYX9UYLYDAKBggqhkjOPQQDAjAQ
MQ4wDAYDVQQKDAVTUElSRTAeFw0yNjExMjUwMzMwNDlaFw0zNjExMjIwMzMwNDla
MBAxDjAMBgNVBAoMBVNQSVJFMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE6GeL
XIx18oniDMEqPnbKe7GGBaPrcTMLUw9jswiIgCVDEofnp0y/npvReYqGS7kPTKbm
rfJqpPZXd6lkeViApqMjMCEwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMC
AgQwCgYIKoZIzj0EAwIDSQAwRgIhAIwa27WeXjqtLFzqEk2UNEvRwpPhWRQIfDf0
mEbMtz6AAiEAh5OeJopsxRwap3p0eAVdo53xC9RGkPv9FmYWug1WO5Y=
-----END CERTIFICATE-----
";

proptest! {
    #[test]
    fn any_text_is_refused_without_a_panic(text in ".{0,200}") {
        drop(from_json(&td(), &text));
        drop(from_json_strict(&td(), &text));
    }

    #[test]
    fn any_key_members_are_read_or_refused_without_a_panic(
        kty in "EC|RSA|OKP|AKP",
        crv in "P-256|P-521|Ed25519|X25519",
        x in "[A-Za-z0-9_=-]{0,90}",
        n in "[A-Za-z0-9_=-]{0,400}",
    ) {
        let key = json!({"use": "jwt-svid", "kid": "k", "kty": kty, "crv": crv, "x": x, "y": x, "n": n, "e": "AQAB"});
        if let Ok(bundle) = read(&json!({ "keys": [key] })) {
            prop_assert_eq!(from_json(&td(), &to_json(&bundle)).unwrap(), bundle);
        }
    }
}
