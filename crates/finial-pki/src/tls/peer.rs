//! Who is at the other end.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use spiffe_types::agent::SerialNumber;
use spiffe_types::id::SpiffeId;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::x509::from_unix;

/// What a verified peer's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSvid {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The certificate's serial number.
    pub serial: SerialNumber,
    /// End of validity; a connection may outlive it.
    pub not_after: SystemTime,
}

/// Why a certificate names nobody. The texts are those that SPIRE's callers see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no certificate.
    #[error("no client certificate was presented")]
    NoCertificate,
    /// It does not parse.
    #[error("client certificate is malformed: {reason}")]
    Malformed {
        /// What was wrong.
        reason: String,
    },
    /// It names no URI.
    #[error("client certificate has no URI SAN")]
    NoUri,
    /// It names several URIs.
    #[error("client certificate has more than one URI SAN")]
    ManyUris,
    /// It names a URI that is no SPIFFE ID.
    #[error("client certificate has a malformed URI SAN: {reason}")]
    MalformedUri {
        /// The rule it breaks.
        reason: String,
    },
}

/// Reads who a peer is from the chain it presented, leaf first. The chain must have been verified already.
pub fn peer_svid(chain: &[CertificateDer<'_>]) -> Result<PeerSvid, PeerError> {
    let leaf = chain.first().ok_or(PeerError::NoCertificate)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| PeerError::Malformed {
        reason: error.to_string(),
    })?;
    let mut uris =
        leaf.extensions()
            .iter()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            });
    let mut uris = uris.by_ref().flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next().ok_or(PeerError::NoUri)?;
    if uris.next().is_some() {
        return Err(PeerError::ManyUris);
    }
    let id = SpiffeId::parse(uri).map_err(|error| PeerError::MalformedUri {
        reason: error.to_string(),
    })?;
    Ok(PeerSvid {
        id,
        serial: SerialNumber::from_be_bytes(leaf.raw_serial()),
        not_after: from_unix(leaf.validity().not_after.timestamp()),
    })
}
