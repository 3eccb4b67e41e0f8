//! Drafts of certificates, and their signing.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rand::Rng as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber,
};
use spiffe_types::entry::DnsName;
use spiffe_types::id::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use super::encode::{EncodeError, Unsigned, UnsignedCertificate, ia5};
use super::name::SubjectName;
use super::time::{from_unix, whole_seconds};
use crate::key::{PublicKey, SignError, SignatureScheme, SigningKey};

/// What a self-signed authority says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaTemplate {
    /// The trust domain, named as the only URI.
    pub trust_domain: TrustDomain,
    /// The configured subject; without a `serialNumber`, the certificate's serial goes there in decimal.
    pub subject: SubjectName,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number, see [`random_serial`].
    pub serial: [u8; 16],
}

/// What an X509-SVID says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidTemplate {
    /// The SPIFFE ID, named as the only URI.
    pub id: SpiffeId,
    /// DNS names; the first becomes the common name.
    pub dns_names: Vec<DnsName>,
    /// The key that is certified.
    pub public_key: PublicKey,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity; the caller keeps it within the issuer's.
    pub not_after: SystemTime,
    /// Serial number, see [`random_serial`].
    pub serial: [u8; 16],
    /// The subject; `None` means `C=US, O=SPIRE`.
    pub subject: Option<SubjectName>,
}

/// An authority that signs, with what goes into every certificate worked out once.
#[derive(Debug, Clone)]
pub struct Issuer {
    cert_der: Bytes,
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    subject: Bytes,
    subject_key_id: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why a certificate and a key do not make an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The certificate does not parse.
    #[error("malformed authority certificate: {reason}")]
    Malformed {
        /// What was wrong.
        reason: String,
    },
    /// The certificate is for another key.
    #[error("authority certificate does not belong to the key")]
    KeyMismatch,
    /// The key cannot sign certificates.
    #[error("authority key cannot sign certificates; use ECDSA (P-256, P-384) or RSA")]
    UnsupportedKey,
}

impl Issuer {
    /// Joins the certificate of an authority with its key.
    pub fn new(cert_der: Bytes, key: Arc<dyn SigningKey>) -> Result<Self, IssuerError> {
        let (_, certificate) =
            X509Certificate::from_der(&cert_der).map_err(|error| IssuerError::Malformed {
                reason: error.to_string(),
            })?;
        if certificate.public_key().raw != key.public_key().spki_der() {
            return Err(IssuerError::KeyMismatch);
        }
        let scheme =
            SignatureScheme::default_for(key.public_key()).ok_or(IssuerError::UnsupportedKey)?;
        let subject = Bytes::copy_from_slice(certificate.subject().as_raw());
        let subject_key_id = certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
            .unwrap_or_else(|| key.public_key().subject_key_id().to_vec());
        let not_before = from_unix(certificate.validity().not_before.timestamp());
        let not_after = from_unix(certificate.validity().not_after.timestamp());
        Ok(Self {
            cert_der,
            key,
            scheme,
            subject,
            subject_key_id,
            not_before,
            not_after,
        })
    }

    /// Returns the certificate.
    pub const fn cert_der(&self) -> &Bytes {
        &self.cert_der
    }

    /// Returns the key.
    pub const fn key(&self) -> &Arc<dyn SigningKey> {
        &self.key
    }

    /// Returns the subject key identifier of the certificate.
    pub fn subject_key_id(&self) -> &[u8] {
        &self.subject_key_id
    }

    /// Returns the start of validity.
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Returns the end of validity, which nothing it signs may outlive.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum SignX509Error {
    /// It could not be encoded.
    #[error("failed to encode certificate")]
    Encode {
        /// What was in the way.
        source: EncodeError,
    },
    /// The key did not sign it.
    #[error("failed to sign certificate")]
    Sign {
        /// What the key holder said.
        source: SignError,
    },
}

impl From<EncodeError> for SignX509Error {
    fn from(source: EncodeError) -> Self {
        Self::Encode { source }
    }
}

/// Draws a serial number from 1 to 2^128 - 2.
pub fn random_serial() -> [u8; 16] {
    rand::rng().random_range(1..u128::MAX).to_be_bytes()
}

/// Makes a self-signed authority.
pub async fn self_sign_ca(
    key: &dyn SigningKey,
    template: &CaTemplate,
) -> Result<Bytes, SignX509Error> {
    let public_key = key.public_key();
    let scheme = SignatureScheme::default_for(public_key).ok_or(EncodeError::UnsupportedKey)?;
    let mut subject = template.subject.clone();
    if subject.serial_number.is_empty() {
        subject.serial_number = u128::from_be_bytes(template.serial).to_string();
    }
    let subject = subject.to_der();

    let mut params = draft(template.serial, template.not_before, template.not_after)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![SanType::URI(ia5(template.trust_domain.id().as_str())?)];
    params.key_identifier_method = KeyIdMethod::PreSpecified(public_key.subject_key_id().to_vec());
    let certificate = params
        .self_signed(&Unsigned(public_key))
        .map_err(|error| refused(&error))?;
    let unsigned =
        UnsignedCertificate::from_draft(certificate.der(), &subject, &subject, public_key)?;
    sign(key, scheme, &unsigned).await
}

/// Signs an X509-SVID.
pub async fn sign_svid(issuer: &Issuer, template: &SvidTemplate) -> Result<Bytes, SignX509Error> {
    let mut subject = template
        .subject
        .clone()
        .unwrap_or_else(SubjectName::svid_default);
    if let Some(first) = template.dns_names.first() {
        first.as_str().clone_into(&mut subject.common_name);
    }

    let mut params = draft(template.serial, template.not_before, template.not_after)?;
    if subject.is_empty() {
        params.distinguished_name = DistinguishedName::new(); // makes the alternative names critical
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for name in &template.dns_names {
        params
            .subject_alt_names
            .push(SanType::DnsName(ia5(name.as_str())?));
    }
    params
        .subject_alt_names
        .push(SanType::URI(ia5(template.id.as_str())?));
    params.key_identifier_method =
        KeyIdMethod::PreSpecified(template.public_key.subject_key_id().to_vec());
    params.use_authority_key_identifier_extension = true;

    let mut authority = CertificateParams::default();
    authority.key_identifier_method = KeyIdMethod::PreSpecified(issuer.subject_key_id.clone());
    let authority = rcgen::Issuer::from_params(&authority, Unsigned(issuer.key.public_key()));
    let certificate = params
        .signed_by(&Unsigned(&template.public_key), &authority)
        .map_err(|error| refused(&error))?;
    let unsigned = UnsignedCertificate::from_draft(
        certificate.der(),
        &issuer.subject,
        &subject.to_der(),
        &template.public_key,
    )?;
    sign(&*issuer.key, issuer.scheme, &unsigned).await
}

fn draft(
    serial: [u8; 16],
    not_before: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, EncodeError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "US"); // replaced, but tells rcgen that there is a subject
    params.not_before = whole_seconds(not_before).ok_or(EncodeError::Time)?;
    params.not_after = whole_seconds(not_after).ok_or(EncodeError::Time)?;
    let significant = serial
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(serial.len());
    let (_, significant) = serial
        .split_at_checked(significant)
        .unwrap_or((&[], &serial));
    params.serial_number = Some(SerialNumber::from_slice(significant));
    Ok(params)
}

async fn sign(
    key: &dyn SigningKey,
    scheme: SignatureScheme,
    unsigned: &UnsignedCertificate,
) -> Result<Bytes, SignX509Error> {
    let signature = key
        .sign(scheme, &unsigned.message)
        .await
        .map_err(|source| SignX509Error::Sign { source })?;
    Ok(Bytes::from(unsigned.with_signature(&signature)))
}

fn refused(error: &rcgen::Error) -> EncodeError {
    EncodeError::Rcgen {
        reason: error.to_string(),
    }
}

#[cfg(test)]
#[path = "issue_tests.rs"]
mod tests;
