use std::time::{Duration, UNIX_EPOCH};

use spiffe_types::entry::DnsName;
use spiffe_types::svid::x509::X509Svid;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::Oid;

use super::*;
use crate::key::{KeyKind, SigningKey};
use crate::software::SoftwareKey;
use crate::testing::TestCa;
use crate::x509::{VerifyError, verify_svid};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_355_011)
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::from_path(&trust_domain(), path).unwrap()
}

fn ca_template(serial: [u8; 16]) -> CaTemplate {
    CaTemplate {
        trust_domain: trust_domain(),
        subject: SubjectName::ca_default(),
        not_before: now() - Duration::from_secs(10),
        not_after: now() + Duration::from_hours(24),
        serial,
    }
}

fn svid_template(key: &SoftwareKey, dns_names: &[&str]) -> SvidTemplate {
    SvidTemplate {
        id: id("/web"),
        dns_names: dns_names
            .iter()
            .map(|name| DnsName::parse(name).unwrap())
            .collect(),
        public_key: key.public_key().clone(),
        not_before: now() - Duration::from_secs(10),
        not_after: now() + Duration::from_hours(1),
        serial: random_serial(),
        subject: None,
    }
}

/// Extensions as (identifier, critical), in order of appearance.
fn extensions(certificate: &X509Certificate<'_>) -> Vec<(String, bool)> {
    certificate
        .extensions()
        .iter()
        .map(|e| (Oid::to_id_string(&e.oid), e.critical))
        .collect()
}

fn pairs(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
    expected
        .iter()
        .map(|(oid, critical)| ((*oid).to_owned(), *critical))
        .collect()
}

#[tokio::test]
async fn an_authority_matches_the_profile() {
    for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
        let key = SoftwareKey::generate(kind).unwrap();
        let serial = 187_126_473_263_958_669_136_169_388_285_366_867_647_u128;
        let der = self_sign_ca(&key, &ca_template(serial.to_be_bytes()))
            .await
            .unwrap();
        let (rest, certificate) = X509Certificate::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(certificate.version().0, 2);
        assert_eq!(certificate.serial.to_string(), serial.to_string());
        assert_eq!(
            certificate.subject().to_string(),
            "C=US, O=SPIFFE, serialNumber=187126473263958669136169388285366867647"
        );
        assert_eq!(
            certificate.issuer().as_raw(),
            certificate.subject().as_raw()
        );
        assert_eq!(
            from_unix(certificate.validity().not_before.timestamp()),
            now() - Duration::from_secs(10)
        );
        assert_eq!(
            from_unix(certificate.validity().not_after.timestamp()),
            now() + Duration::from_hours(24)
        );
        assert_eq!(certificate.public_key().raw, key.public_key().spki_der());
        assert_eq!(
            extensions(&certificate),
            pairs(&[
                ("2.5.29.15", true),
                ("2.5.29.19", true),
                ("2.5.29.14", false),
                ("2.5.29.17", false)
            ])
        );
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert_eq!(
            usage.flags,
            (1 << 5) | (1 << 6),
            "certificate sign, CRL sign"
        );
        let constraints = certificate.basic_constraints().unwrap().unwrap().value;
        assert!(constraints.ca && constraints.path_len_constraint.is_none());
        let names = &certificate
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names;
        assert_eq!(names, &[GeneralName::URI("spiffe://example.org")]);
        let issuer = Issuer::new(der.clone(), Arc::new(key.clone())).unwrap();
        assert_eq!(issuer.subject_key_id(), key.public_key().subject_key_id());
        certificate.verify_signature(None).unwrap();
    }
}

#[tokio::test]
async fn a_configured_serial_number_in_the_subject_is_kept() {
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let mut template = ca_template(random_serial());
    template.subject.serial_number = "mine".to_owned();
    let der = self_sign_ca(&key, &template).await.unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(
        certificate.subject().to_string(),
        "C=US, O=SPIFFE, serialNumber=mine"
    );
}

#[tokio::test]
async fn an_svid_matches_the_profile() {
    for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
        let ca = TestCa::with_key_kind(&trust_domain(), now(), kind).await;
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let template = svid_template(&key, &["web.example.org", "www.example.org"]);
        let der = sign_svid(ca.issuer(), &template).await.unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let (_, authority) = X509Certificate::from_der(ca.issuer().cert_der()).unwrap();
        assert_eq!(
            certificate.subject().to_string(),
            "C=US, O=SPIRE, CN=web.example.org"
        );
        assert_eq!(certificate.issuer().as_raw(), authority.subject().as_raw());
        assert_eq!(
            extensions(&certificate),
            pairs(&[
                ("2.5.29.15", true),
                ("2.5.29.37", false),
                ("2.5.29.19", true),
                ("2.5.29.14", false),
                ("2.5.29.35", false),
                ("2.5.29.17", false),
            ])
        );
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.key_agreement());
        assert_eq!(usage.flags.count_ones(), 3);
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth);
        assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
        let names = &certificate
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names;
        assert_eq!(
            names,
            &[
                GeneralName::DNSName("web.example.org"),
                GeneralName::DNSName("www.example.org"),
                GeneralName::URI("spiffe://example.org/web"),
            ]
        );
        let svid = X509Svid::parse(vec![der.clone()]).unwrap();
        assert_eq!(
            svid.subject_key_id(),
            Some(&key.public_key().subject_key_id()[..])
        );
        assert_eq!(
            svid.authority_key_id().unwrap().as_str(),
            hex::encode(ca.issuer().subject_key_id())
        );
        certificate
            .verify_signature(Some(authority.public_key()))
            .unwrap();
    }
}

#[tokio::test]
async fn an_svid_of_any_key_keeps_the_key_byte_for_byte() {
    let ca = TestCa::new(&trust_domain(), now()).await;
    for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
        let key = SoftwareKey::generate(kind).unwrap();
        let der = sign_svid(ca.issuer(), &svid_template(&key, &[]))
            .await
            .unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.public_key().raw, key.public_key().spki_der());
        assert_eq!(certificate.subject().to_string(), "C=US, O=SPIRE");
    }
}

#[tokio::test]
async fn small_and_large_serials_are_positive_and_minimal() {
    let ca = TestCa::new(&trust_domain(), now()).await;
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    for serial in [1_u128, 127, 128, 255, 256, u128::MAX - 1] {
        let template = SvidTemplate {
            serial: serial.to_be_bytes(),
            ..svid_template(&key, &[])
        };
        let der = sign_svid(ca.issuer(), &template).await.unwrap();
        let svid = X509Svid::parse(vec![der]).unwrap();
        assert_eq!(svid.serial().to_string(), serial.to_string());
    }
}

#[tokio::test]
async fn an_issuer_name_with_repeated_attributes_is_copied_exactly() {
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let mut template = ca_template(random_serial());
    template.subject.organization = vec!["First".to_owned(), "Second".to_owned()];
    template.subject.common_name = "up".to_owned();
    let ca = self_sign_ca(&key, &template).await.unwrap();
    let issuer = Issuer::new(ca.clone(), Arc::new(key)).unwrap();
    let leaf_key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let leaf = sign_svid(&issuer, &svid_template(&leaf_key, &[]))
        .await
        .unwrap();
    let mut bundle = spiffe_types::bundle::Bundle::empty(trust_domain());
    bundle
        .x509_authorities
        .push(spiffe_types::bundle::X509Authority::parse(ca, false).unwrap());
    assert_eq!(
        verify_svid(&[leaf], &bundle, now()).unwrap().id(),
        &id("/web")
    );
}

#[tokio::test]
async fn an_issuer_refuses_a_key_that_is_not_its_own() {
    let ca = TestCa::new(&trust_domain(), now()).await;
    let other: Arc<dyn SigningKey> = Arc::new(SoftwareKey::generate(KeyKind::EcP256).unwrap());
    assert_eq!(
        Issuer::new(ca.issuer().cert_der().clone(), other).unwrap_err(),
        IssuerError::KeyMismatch
    );
}

#[tokio::test]
async fn verification_wants_the_right_authority_domain_and_time() {
    let ca = TestCa::new(&trust_domain(), now()).await;
    let other = TestCa::new(&trust_domain(), now()).await;
    let foreign = TestCa::new(&TrustDomain::parse("other.test").unwrap(), now()).await;
    let svid = ca.svid(&id("/web"), now(), Duration::from_hours(1)).await;
    assert!(verify_svid(&svid.chain, &ca.bundle(), now()).is_ok());
    assert!(matches!(
        verify_svid(&svid.chain, &other.bundle(), now()),
        Err(VerifyError::UnknownAuthority)
    ));
    assert!(matches!(
        verify_svid(&svid.chain, &foreign.bundle(), now()),
        Err(VerifyError::UnknownTrustDomain { .. })
    ));
    assert!(matches!(
        verify_svid(&svid.chain, &ca.bundle(), now() + Duration::from_hours(2)),
        Err(VerifyError::Expired)
    ));
    assert!(matches!(
        verify_svid(&svid.chain, &ca.bundle(), now() - Duration::from_mins(1)),
        Err(VerifyError::NotValidYet)
    ));
    // An authority of one trust domain must not vouch for an ID of another.
    let posing = foreign
        .svid(&id("/web"), now(), Duration::from_hours(1))
        .await;
    assert!(matches!(
        verify_svid(&posing.chain, &ca.bundle(), now()),
        Err(VerifyError::UnknownAuthority)
    ));
}

#[tokio::test]
async fn an_expired_authority_vouches_for_nobody() {
    let ca = TestCa::new(&trust_domain(), now()).await;
    let svid = ca.svid(&id("/web"), now(), Duration::from_hours(48)).await;
    assert!(verify_svid(&svid.chain, &ca.bundle(), now()).is_ok());
    assert!(matches!(
        verify_svid(&svid.chain, &ca.bundle(), now() + Duration::from_hours(25)),
        Err(VerifyError::UnknownAuthority)
    ));
}
