//! A certificate authority for tests.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support"
)]

pub mod foreign;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::id::{SpiffeId, TrustDomain};

use crate::key::{KeyKind, PublicKey};
use crate::software::SoftwareKey;
use crate::x509::{
    CaTemplate, Issuer, SubjectName, SvidTemplate, random_serial, self_sign_ca, sign_svid,
};

/// A self-signed authority whose key is in memory.
#[derive(Debug, Clone)]
pub struct TestCa {
    trust_domain: TrustDomain,
    issuer: Issuer,
}

/// An SVID with its key.
#[derive(Debug, Clone)]
pub struct TestSvid {
    /// The chain, leaf first.
    pub chain: Vec<Bytes>,
    /// The key of the leaf.
    pub key: SoftwareKey,
}

impl TestCa {
    /// Makes an authority that is valid from an hour before `now` to a day after it.
    pub async fn new(trust_domain: &TrustDomain, now: SystemTime) -> Self {
        Self::with_key_kind(trust_domain, now, KeyKind::EcP256).await
    }

    /// Makes an authority with a key of another kind.
    pub async fn with_key_kind(trust_domain: &TrustDomain, now: SystemTime, kind: KeyKind) -> Self {
        let key = SoftwareKey::generate(kind).expect("key");
        let template = CaTemplate {
            trust_domain: trust_domain.clone(),
            subject: SubjectName::ca_default(),
            not_before: now - Duration::from_hours(1),
            not_after: now + Duration::from_hours(24),
            serial: random_serial(),
        };
        let certificate = self_sign_ca(&key, &template).await.expect("authority");
        let issuer = Issuer::new(certificate, Arc::new(key)).expect("issuer");
        Self {
            trust_domain: trust_domain.clone(),
            issuer,
        }
    }

    /// Returns the issuer.
    pub const fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Returns the bundle that holds this authority alone.
    pub fn bundle(&self) -> Bundle {
        let mut bundle = Bundle::empty(self.trust_domain.clone());
        bundle.x509_authorities.push(self.authority());
        bundle
    }

    /// Returns the authority as it goes into a bundle.
    pub fn authority(&self) -> X509Authority {
        X509Authority::parse(self.issuer.cert_der().clone(), false).expect("authority")
    }

    /// Issues an SVID for a new key, valid from ten seconds before `now` for `ttl`.
    pub async fn svid(&self, id: &SpiffeId, now: SystemTime, ttl: Duration) -> TestSvid {
        let key = SoftwareKey::generate(KeyKind::EcP256).expect("key");
        let chain = self.sign(id, key.public_key(), now, ttl).await;
        TestSvid { chain, key }
    }

    /// Issues an SVID for a given key.
    pub async fn sign(
        &self,
        id: &SpiffeId,
        key: &PublicKey,
        now: SystemTime,
        ttl: Duration,
    ) -> Vec<Bytes> {
        let template = SvidTemplate {
            id: id.clone(),
            dns_names: Vec::new(),
            public_key: key.clone(),
            not_before: now - Duration::from_secs(10),
            not_after: now + ttl,
            serial: random_serial(),
            subject: None,
        };
        vec![sign_svid(&self.issuer, &template).await.expect("svid")]
    }
}
