//! X.509-SVIDs: a leaf and its signers, held to every MUST of the X509-SVID standard that needs no trust anchor.
//!
//! Signatures, validity at a moment and name constraints are the business of path validation, which needs a bundle.

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, KeyUsage};

use crate::agent::SerialNumber;
use crate::bundle::AuthorityId;
pub use crate::certificate::CertificateError;
use crate::certificate::{self, authority_key_id, subject_key_id, system_time};
use crate::id::{IdError, SpiffeId};

/// An X.509-SVID with its chain, without its private key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct X509Svid {
    id: SpiffeId,
    chain: Vec<Bytes>,
    public_key: Bytes,
    serial: SerialNumber,
    not_before: SystemTime,
    not_after: SystemTime,
    subject_key_id: Option<Bytes>,
    authority_key_id: Option<AuthorityId>,
    dns_names: Vec<String>,
}

impl X509Svid {
    /// Parses certificates in DER, the leaf first, and checks them against the standard.
    pub fn parse(chain: Vec<Bytes>) -> Result<Self, X509SvidError> {
        let (leaf_der, signers) = chain.split_first().ok_or(X509SvidError::EmptyChain)?;
        let leaf = certificate::parse(leaf_der).map_err(|source| X509SvidError::Certificate {
            position: 0,
            source,
        })?;
        let names = SubjectNames::of(&leaf)?;
        let id = leaf_id(&leaf, &names)?;
        check_leaf(&leaf)?;
        for (der, position) in signers.iter().zip(1..) {
            let signer = certificate::parse(der)
                .map_err(|source| X509SvidError::Certificate { position, source })?;
            check_signer(&signer, position)?;
        }
        let date = |time| {
            system_time(time).map_err(|source| X509SvidError::Certificate {
                position: 0,
                source,
            })
        };
        Ok(Self {
            not_before: date(leaf.validity().not_before)?,
            not_after: date(leaf.validity().not_after)?,
            public_key: leaf_der.slice_ref(leaf.public_key().raw),
            serial: SerialNumber::from_be_bytes(leaf.raw_serial()),
            subject_key_id: subject_key_id(&leaf).map(Bytes::copy_from_slice),
            authority_key_id: authority_key_id(&leaf).map(AuthorityId::from_key_id),
            dns_names: names.dns.into_iter().map(str::to_owned).collect(),
            id,
            chain,
        })
    }

    /// Whom the SVID names.
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The certificates in DER, the leaf first. Never empty.
    pub fn chain(&self) -> &[Bytes] {
        &self.chain
    }

    /// The whole chain as concatenated DER, the form of the Workload API.
    pub fn chain_der(&self) -> Bytes {
        concatenate(&self.chain)
    }

    /// The leaf's public key as a PKIX `SubjectPublicKeyInfo`.
    pub const fn public_key_der(&self) -> &Bytes {
        &self.public_key
    }

    /// From when the leaf is valid.
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the leaf is valid.
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's serial number.
    pub const fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// The leaf's subject key identifier extension.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.subject_key_id.as_deref()
    }

    /// The authority that signed the leaf, by its authority key identifier extension.
    pub fn authority_key_id(&self) -> Option<AuthorityId> {
        self.authority_key_id.clone()
    }

    /// The leaf's DNS names as they stand in the certificate.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }
}

/// Splits concatenated DER, as the Workload API carries it, into its elements. Nothing yields nothing.
pub fn parse_der_sequence(der: &[u8]) -> Result<Vec<Bytes>, DerSequenceError> {
    let mut elements = Vec::new();
    let mut rest = der;
    while !rest.is_empty() {
        let malformed = || DerSequenceError {
            offset: der.len() - rest.len(),
        };
        let length = element_length(rest).ok_or_else(malformed)?;
        let (element, remainder) = rest.split_at_checked(length).ok_or_else(malformed)?;
        elements.push(Bytes::copy_from_slice(element));
        rest = remainder;
    }
    Ok(elements)
}

/// Joins DER elements without padding.
pub fn concatenate(elements: &[Bytes]) -> Bytes {
    if let [only] = elements {
        return only.clone();
    }
    let mut joined = BytesMut::with_capacity(elements.iter().map(Bytes::len).sum());
    for element in elements {
        joined.extend_from_slice(element);
    }
    joined.freeze()
}

/// How many bytes the SEQUENCE at the start of `der` takes, header included.
fn element_length(der: &[u8]) -> Option<usize> {
    const SEQUENCE: u8 = 0x30;
    match der {
        [SEQUENCE, short @ 0..=0x7f, ..] => Some(2 + usize::from(*short)),
        [SEQUENCE, long @ 0x81..=0x84, rest @ ..] => {
            let octets = rest.get(..usize::from(*long & 0x7f))?;
            let length = octets
                .iter()
                .fold(0_usize, |sum, octet| (sum << 8) | usize::from(*octet));
            // DER asks for the shortest form.
            let shortest = length > 0x7f && octets.first() != Some(&0);
            shortest
                .then(|| length.checked_add(2 + octets.len()))
                .flatten()
        }
        _ => None,
    }
}

/// Bytes that should be DER elements one after the other are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DER at byte {offset}")]
pub struct DerSequenceError {
    /// Where the element begins that cannot be read.
    pub offset: usize,
}

struct SubjectNames<'a> {
    uris: Vec<&'a str>,
    dns: Vec<&'a str>,
    critical: bool,
}

impl<'a> SubjectNames<'a> {
    fn of(certificate: &'a X509Certificate<'_>) -> Result<Self, X509SvidError> {
        let mut names = Self {
            uris: Vec::new(),
            dns: Vec::new(),
            critical: false,
        };
        // Duplicates were refused when the certificate was parsed.
        let extension = certificate.subject_alternative_name().ok().flatten();
        let extension = extension.ok_or(X509SvidError::NoUri)?;
        names.critical = extension.critical;
        for name in &extension.value.general_names {
            match name {
                GeneralName::URI(uri) => names.uris.push(uri),
                GeneralName::DNSName(dns) => names.dns.push(dns),
                _ => {}
            }
        }
        Ok(names)
    }
}

fn leaf_id(
    leaf: &X509Certificate<'_>,
    names: &SubjectNames<'_>,
) -> Result<SpiffeId, X509SvidError> {
    let uri = match names.uris.as_slice() {
        [] => return Err(X509SvidError::NoUri),
        [uri] => *uri,
        [_, _, ..] => return Err(X509SvidError::ManyUris),
    };
    let id = SpiffeId::parse(uri).map_err(|source| X509SvidError::InvalidId { source })?;
    if id.path().is_empty() {
        return Err(X509SvidError::LeafWithoutPath);
    }
    if leaf.subject().iter_rdn().next().is_none() && !names.critical {
        return Err(X509SvidError::NameNotCritical);
    }
    Ok(id)
}

fn check_leaf(leaf: &X509Certificate<'_>) -> Result<(), X509SvidError> {
    if leaf.is_ca() {
        return Err(X509SvidError::LeafIsCa);
    }
    let usage = key_usage(leaf, 0)?;
    if !usage.digital_signature() {
        return Err(X509SvidError::LeafCannotSign);
    }
    if usage.key_cert_sign() {
        return Err(X509SvidError::LeafSignsCertificates);
    }
    if usage.crl_sign() {
        return Err(X509SvidError::LeafSignsCrls);
    }
    let extended = leaf.extended_key_usage().ok().flatten();
    if extended.is_some_and(|usage| !(usage.value.server_auth && usage.value.client_auth)) {
        return Err(X509SvidError::LeafExtendedKeyUsage);
    }
    Ok(())
}

fn check_signer(signer: &X509Certificate<'_>, position: usize) -> Result<(), X509SvidError> {
    if !signer.is_ca() {
        return Err(X509SvidError::SignerIsNotCa { position });
    }
    if !key_usage(signer, position)?.key_cert_sign() {
        return Err(X509SvidError::SignerCannotSign { position });
    }
    // A signer should be an SVID but need not be. If it is one, it speaks for a trust domain, not for a workload.
    let names = SubjectNames::of(signer).map_or_else(|_| Vec::new(), |names| names.uris);
    if names.iter().any(|uri| uri.starts_with("spiffe:")) {
        if names.len() > 1 {
            return Err(X509SvidError::SignerManyUris { position });
        }
        for uri in names {
            let id = SpiffeId::parse(uri)
                .map_err(|source| X509SvidError::SignerInvalidId { position, source })?;
            if !id.path().is_empty() {
                return Err(X509SvidError::SignerWithPath { position, id });
            }
        }
    }
    Ok(())
}

fn key_usage<'a>(
    certificate: &'a X509Certificate<'_>,
    position: usize,
) -> Result<&'a KeyUsage, X509SvidError> {
    match certificate.key_usage().ok().flatten() {
        Some(usage) if usage.critical => Ok(usage.value),
        Some(_) => Err(X509SvidError::KeyUsageNotCritical { position }),
        None => Err(X509SvidError::NoKeyUsage { position }),
    }
}

/// Why certificates are no X.509-SVID. Positions count from the leaf, which is 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// There is no certificate at all.
    #[error("no certificates found")]
    EmptyChain,
    /// A certificate cannot be read.
    #[error("cannot parse certificate {position} of the chain")]
    Certificate {
        /// Which one.
        position: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The leaf names no URI (X509-SVID §2).
    #[error("certificate contains no URI SAN")]
    NoUri,
    /// The leaf names several URIs (X509-SVID §2).
    #[error("certificate contains more than one URI SAN")]
    ManyUris,
    /// The leaf's URI is no SPIFFE ID.
    #[error("URI SAN of the leaf certificate is not a SPIFFE ID")]
    InvalidId {
        /// Why not.
        source: IdError,
    },
    /// The leaf carries the id of a trust domain (X509-SVID §5.2).
    #[error("leaf certificate SPIFFE ID must have a non-root path")]
    LeafWithoutPath,
    /// The subject is empty but the SAN extension not critical (RFC 5280 §4.2.1.6).
    #[error(
        "subject alternative name of a leaf certificate with an empty subject must be critical"
    )]
    NameNotCritical,
    /// The leaf is a CA (X509-SVID §4.1).
    #[error("leaf certificate must not have CA flag set to true")]
    LeafIsCa,
    /// A certificate has no key usage (X509-SVID §4.3).
    #[error("certificate {position} of the chain must have a key usage")]
    NoKeyUsage {
        /// Which one.
        position: usize,
    },
    /// The key usage is not critical (X509-SVID §4.3).
    #[error("key usage of certificate {position} of the chain must be critical")]
    KeyUsageNotCritical {
        /// Which one.
        position: usize,
    },
    /// The leaf's key may not sign.
    #[error("leaf certificate must have 'digitalSignature' set as key usage")]
    LeafCannotSign,
    /// The leaf's key may sign certificates.
    #[error("leaf certificate must not have 'keyCertSign' set as key usage")]
    LeafSignsCertificates,
    /// The leaf's key may sign revocation lists.
    #[error("leaf certificate must not have 'cRLSign' set as key usage")]
    LeafSignsCrls,
    /// The leaf limits its use to other ends than both sides of TLS (X509-SVID §4.4).
    #[error(
        "extended key usage of the leaf certificate must include both server and client authentication"
    )]
    LeafExtendedKeyUsage,
    /// A signer is no CA.
    #[error("signing certificate {position} of the chain must have CA flag set to true")]
    SignerIsNotCa {
        /// Which one.
        position: usize,
    },
    /// A signer's key may not sign certificates.
    #[error("signing certificate {position} of the chain must have 'keyCertSign' set as key usage")]
    SignerCannotSign {
        /// Which one.
        position: usize,
    },
    /// A signer with a SPIFFE ID has other URIs besides.
    #[error("signing certificate {position} of the chain contains more than one URI SAN")]
    SignerManyUris {
        /// Which one.
        position: usize,
    },
    /// A signer's URI begins as a SPIFFE ID and is none.
    #[error("URI SAN of signing certificate {position} of the chain is not a SPIFFE ID")]
    SignerInvalidId {
        /// Which one.
        position: usize,
        /// Why not.
        source: IdError,
    },
    /// A signer carries the id of a workload (X509-SVID §3.2).
    #[error(
        "signing certificate {position} of the chain must have a SPIFFE ID without path, not {id}"
    )]
    SignerWithPath {
        /// Which one.
        position: usize,
        /// The id it carries.
        id: SpiffeId,
    },
}
