//! Bundles: the public keys a trust domain is trusted by.

pub mod jwks;

mod jwk;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::certificate::{self, CertificateError, key_digest, subject_key_id, system_time};
use crate::id::TrustDomain;
use crate::svid::x509::concatenate;
use crate::text::serde_as_text;

/// The authorities of one trust domain. Bundles of different trust domains are never merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose authorities these are.
    pub trust_domain: TrustDomain,
    /// The certificates that X.509-SVIDs chain up to.
    pub x509_authorities: Vec<X509Authority>,
    /// The keys that JWT-SVIDs are signed with.
    pub jwt_authorities: Vec<JwtAuthority>,
    /// How often to look for a newer bundle, if its publisher says.
    pub refresh_hint: Option<Duration>,
    /// Grows with each change; 0 when unknown.
    pub sequence_number: u64,
}

impl Bundle {
    /// A bundle that trusts nobody.
    pub const fn empty(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            refresh_hint: None,
            sequence_number: 0,
        }
    }

    /// The X.509 authorities as concatenated DER, the form of the Workload API.
    pub fn x509_der_concat(&self) -> Bytes {
        let certificates: Vec<_> = self
            .x509_authorities
            .iter()
            .map(|authority| authority.der.clone())
            .collect();
        concatenate(&certificates)
    }

    /// Tells whether an X.509 authority has this id.
    pub fn has_x509(&self, id: &AuthorityId) -> bool {
        self.x509_authorities
            .iter()
            .any(|authority| authority.id == *id)
    }

    /// Finds the JWT authority with this key id.
    pub fn find_jwt(&self, key_id: &str) -> Option<&JwtAuthority> {
        self.jwt_authorities
            .iter()
            .find(|authority| authority.key_id == key_id)
    }
}

/// A certificate that X.509-SVIDs chain up to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct X509Authority {
    /// Set once the key must no longer be relied on: what it signed is replaced ahead of time.
    pub tainted: bool,
    id: AuthorityId,
    subject: Bytes,
    public_key: Bytes,
    not_before: SystemTime,
    not_after: SystemTime,
    der: Bytes,
}

impl X509Authority {
    /// Parses one certificate in DER.
    pub fn parse(der: Bytes, tainted: bool) -> Result<Self, CertificateError> {
        let certificate = certificate::parse(&der)?;
        let id = match subject_key_id(&certificate) {
            Some(key_id) if !key_id.is_empty() => AuthorityId::from_key_id(key_id),
            _ => AuthorityId::from_key_id(&key_digest(&certificate)),
        };
        let not_before = system_time(certificate.validity().not_before)?;
        let not_after = system_time(certificate.validity().not_after)?;
        let subject = der.slice_ref(certificate.subject().as_raw());
        let public_key = der.slice_ref(certificate.public_key().raw);
        Ok(Self {
            tainted,
            id,
            subject,
            public_key,
            not_before,
            not_after,
            der,
        })
    }

    /// The certificate in DER.
    pub const fn der(&self) -> &Bytes {
        &self.der
    }

    /// The subject key identifier; when the certificate has none, the SHA-1 digest of its key bits.
    pub const fn id(&self) -> &AuthorityId {
        &self.id
    }

    /// The subject's distinguished name in DER.
    pub const fn subject_der(&self) -> &Bytes {
        &self.subject
    }

    /// The public key as a PKIX `SubjectPublicKeyInfo`.
    pub const fn public_key_der(&self) -> &Bytes {
        &self.public_key
    }

    /// From when the certificate is valid.
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the certificate is valid.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// A key that JWT-SVIDs are signed with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JwtAuthority {
    /// The `kid` that tokens name it by.
    pub key_id: String,
    /// The public key as a PKIX `SubjectPublicKeyInfo`.
    pub public_key: Bytes,
    /// When it stops to be trusted; `None` when unknown, as in a SPIFFE bundle document.
    pub expires_at: Option<SystemTime>,
    /// Set once the key must no longer be relied on.
    pub tainted: bool,
}

impl JwtAuthority {
    /// An untainted authority without expiry, after a check that the key is one and the id is not empty.
    pub fn parse(key_id: &str, public_key: Bytes) -> Result<Self, JwtAuthorityError> {
        if !jwk::is_public_key(&public_key) {
            return Err(JwtAuthorityError::MalformedKey);
        }
        if key_id.is_empty() {
            return Err(JwtAuthorityError::MissingKeyId);
        }
        Ok(Self {
            key_id: key_id.to_owned(),
            public_key,
            expires_at: None,
            tainted: false,
        })
    }
}

/// Why a key is no JWT authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwtAuthorityError {
    /// The key id is empty.
    #[error("missing key ID")]
    MissingKeyId,
    /// The key is not a PKIX public key in DER.
    #[error("public key is not PKIX DER")]
    MalformedKey,
}

/// Names an X.509 authority: its subject key identifier in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AuthorityId(String);

impl AuthorityId {
    /// The id of a subject or authority key identifier.
    pub fn from_key_id(key_id: &[u8]) -> Self {
        Self(hex::encode(key_id))
    }

    /// Parses hexadecimal digits of either case.
    pub fn parse(text: &str) -> Result<Self, AuthorityIdError> {
        match hex::decode(text) {
            Ok(key_id) if !key_id.is_empty() => Ok(Self::from_key_id(&key_id)),
            Ok(_) | Err(_) => Err(AuthorityIdError {
                text: text.to_owned(),
            }),
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AuthorityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for AuthorityId {
    type Err = AuthorityIdError;

    fn from_str(text: &str) -> Result<Self, AuthorityIdError> {
        Self::parse(text)
    }
}

serde_as_text!(AuthorityId);

/// The text is not a key identifier in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("authority ID {text:?} is not a hexadecimal key identifier")]
pub struct AuthorityIdError {
    /// What was given.
    pub text: String,
}
