//! What SVIDs and authorities both need from a certificate: parsing that fails closed.

use std::time::{Duration, SystemTime};

use sha1::{Digest as _, Sha1};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

/// Why bytes are no certificate that rules could be applied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The bytes are not an X.509 certificate in DER.
    #[error("malformed certificate: {reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// More bytes follow the certificate.
    #[error("certificate is followed by {count} bytes of other data")]
    TrailingData {
        /// How many bytes.
        count: usize,
    },
    /// An extension occurs twice (RFC 5280 §4.2).
    #[error("certificate has an extension more than once")]
    DuplicateExtension,
    /// An extension, or a name within it, cannot be read: whatever it limits is unknown.
    #[error("certificate extension {oid} is malformed")]
    MalformedExtension {
        /// The object identifier, dotted.
        oid: String,
    },
    /// A date cannot be represented.
    #[error("certificate has a date out of range")]
    DateOutOfRange,
}

/// Parses exactly one certificate whose known extensions can all be read.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| CertificateError::Malformed {
            reason: error.to_string(),
        })?;
    if !rest.is_empty() {
        return Err(CertificateError::TrailingData { count: rest.len() });
    }
    let duplicate = certificate.extensions_map().is_err();
    if duplicate {
        return Err(CertificateError::DuplicateExtension);
    }
    for extension in certificate.extensions() {
        let readable = match extension.parsed_extension() {
            ParsedExtension::ParseError { .. } => false,
            ParsedExtension::SubjectAlternativeName(names) => names
                .general_names
                .iter()
                .all(|name| !matches!(name, GeneralName::Invalid(..))),
            _ => true,
        };
        if !readable {
            return Err(CertificateError::MalformedExtension {
                oid: extension.oid.to_id_string(),
            });
        }
    }
    Ok(certificate)
}

/// The subject key identifier extension.
pub(crate) fn subject_key_id<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        })
}

/// The key identifier of the authority key identifier extension.
pub(crate) fn authority_key_id<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0)
            }
            _ => None,
        })
}

/// SHA-1 of the public key's bits (RFC 5280 §4.2.1.2 method 1). An identifier, not a proof of anything.
pub(crate) fn key_digest(certificate: &X509Certificate<'_>) -> [u8; 20] {
    Sha1::digest(&certificate.public_key().subject_public_key.data).into()
}

/// Seconds since the epoch, before it included.
pub(crate) fn system_time(time: ASN1Time) -> Result<SystemTime, CertificateError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moment.ok_or(CertificateError::DateOutOfRange)
}
