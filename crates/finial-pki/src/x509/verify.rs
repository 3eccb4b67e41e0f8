//! Verification of X509-SVIDs against a bundle.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use spiffe_types::bundle::Bundle;
use spiffe_types::id::TrustDomain;
use spiffe_types::svid::x509::{X509Svid, X509SvidError};
use webpki::{EndEntityCert, KeyUsage};

/// Why an SVID is not to be believed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// The chain is not an X509-SVID.
    #[error("invalid X509-SVID: {reason}")]
    Svid {
        /// The rule it breaks.
        reason: String,
    },
    /// No bundle is held for its trust domain.
    #[error("no X.509 bundle found for trust domain: {trust_domain:?}")]
    UnknownTrustDomain {
        /// The trust domain.
        trust_domain: String,
    },
    /// No authority of its trust domain vouches for it.
    #[error("certificate signed by unknown authority")]
    UnknownAuthority,
    /// It has expired.
    #[error("certificate has expired")]
    Expired,
    /// It is not valid yet.
    #[error("certificate is not valid yet; check the clocks of both sides")]
    NotValidYet,
    /// Another rule of path validation is broken.
    #[error("could not verify leaf certificate: {reason}")]
    Path {
        /// The rule.
        reason: String,
    },
}

impl VerifyError {
    pub(crate) fn svid(error: &X509SvidError) -> Self {
        Self::Svid {
            reason: error.to_string(),
        }
    }
}

/// Checks a chain, leaf first, against the bundle of its trust domain, and returns what it proves.
pub fn verify_svid(
    chain: &[Bytes],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<X509Svid, VerifyError> {
    let svid = X509Svid::parse(chain.to_vec()).map_err(|error| VerifyError::svid(&error))?;
    if !svid.id().is_member_of(&bundle.trust_domain) {
        return Err(unknown_trust_domain(&svid.id().trust_domain()));
    }
    let anchors = anchors_of(bundle);
    let chain = chain
        .iter()
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect::<Vec<_>>();
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| VerifyError::Svid {
        reason: "empty chain".to_owned(),
    })?;
    verify_path(
        leaf,
        intermediates,
        &anchors,
        unix_time(now),
        KeyUsage::server_auth(),
    )?;
    Ok(svid)
}

pub(crate) fn unknown_trust_domain(trust_domain: &TrustDomain) -> VerifyError {
    VerifyError::UnknownTrustDomain {
        trust_domain: trust_domain.as_str().to_owned(),
    }
}

/// An authority in the form that path building takes, with its validity, which path building ignores.
#[derive(Debug, Clone)]
pub(crate) struct Anchor {
    not_before: SystemTime,
    not_after: SystemTime,
    trust: TrustAnchor<'static>,
}

/// Prepares the authorities of a bundle; one that cannot vouch for anything is left out with a warning.
pub(crate) fn anchors_of(bundle: &Bundle) -> Arc<[Anchor]> {
    bundle
        .x509_authorities
        .iter()
        .filter_map(|authority| {
            match webpki::anchor_from_trusted_cert(&CertificateDer::from(authority.der().as_ref()))
            {
                Ok(anchor) => Some(Anchor {
                    not_before: authority.not_before(),
                    not_after: authority.not_after(),
                    trust: anchor.to_owned(),
                }),
                Err(error) => {
                    tracing::warn!(
                        trust_domain_id = bundle.trust_domain.as_str(),
                        authority_id = %authority.id(),
                        error = %error,
                        "X.509 authority cannot be used to verify SVIDs"
                    );
                    None
                }
            }
        })
        .collect()
}

pub(crate) fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    anchors: &[Anchor],
    now: UnixTime,
    usage: KeyUsage,
) -> Result<(), VerifyError> {
    let at = UNIX_EPOCH + Duration::from_secs(now.as_secs());
    let valid = anchors
        .iter()
        .filter(|anchor| anchor.not_before <= at && at <= anchor.not_after)
        .map(|anchor| anchor.trust.clone())
        .collect::<Vec<_>>();
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &valid,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(|_path| ())
        })
        .map_err(|error| match error {
            // A different key under a known name is what a rotation with equal subjects looks like.
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                VerifyError::UnknownAuthority
            }
            webpki::Error::CertExpired { .. } => VerifyError::Expired,
            webpki::Error::CertNotValidYet { .. } => VerifyError::NotValidYet,
            other => VerifyError::Path {
                reason: other.to_string(),
            },
        })
}

pub(crate) fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
