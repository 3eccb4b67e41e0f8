//! The last look before a certificate leaves: whatever made it, it keeps the rules.

use std::time::SystemTime;

use finial_pki::key::PublicKey;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::svid::x509::X509Svid;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::times::{rfc3339, to_unix};

/// The rule that a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidateError {
    /// An authority that is none.
    #[error("invalid X509 CA: {reason}")]
    Ca {
        /// Why.
        reason: String,
    },
    /// An SVID that is none.
    #[error("invalid X509-SVID: {reason}")]
    Svid {
        /// Why.
        reason: String,
    },
}

/// Checks an authority's certificate.
pub(crate) fn ca(
    certificate: &[u8],
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), ValidateError> {
    check_ca(certificate, trust_domain, now).map_err(|reason| ValidateError::Ca { reason })
}

fn check_ca(certificate: &[u8], trust_domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let constraints = certificate
        .basic_constraints()
        .map_err(|error| error.to_string())?;
    let constraints = constraints.ok_or("basic constraints are not valid")?.value;
    if !constraints.ca {
        return Err("cA constraint is not set".to_owned());
    }
    let usage = certificate.key_usage().map_err(|error| error.to_string())?;
    let usage = usage.ok_or("keyCertSign key usage must be set")?.value;
    if !usage.key_cert_sign() {
        return Err("keyCertSign key usage must be set".to_owned());
    }
    if usage.flags & !(DIGITAL_SIGNATURE | KEY_CERT_SIGN | CRL_SIGN) != 0 {
        return Err(
            "only digitalSignature, keyCertSign, and cRLSign key usage can be set".to_owned(),
        );
    }
    let uris = certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect::<Vec<_>>();
    let expected = trust_domain.id();
    if !uris.is_empty() && uris != [expected.as_str()] {
        return Err(format!(
            "expected URI SAN {:?} but got {uris:?}",
            expected.as_str()
        ));
    }
    let validity = certificate.validity();
    check_validity(
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
        now,
    )
}

/// Checks an SVID that parsed as one: whom it names, for which key, and when.
pub(crate) fn svid(
    svid: &X509Svid,
    id: &SpiffeId,
    key: &PublicKey,
    now: SystemTime,
) -> Result<(), ValidateError> {
    let check = || {
        if svid.id() != id {
            return Err(format!(
                "expected URI SAN {:?} but got {:?}",
                id.as_str(),
                svid.id().as_str()
            ));
        }
        if svid.public_key_der() != key.spki_der() {
            return Err("certificate is for another key".to_owned());
        }
        check_validity(to_unix(svid.not_before()), to_unix(svid.not_after()), now)
    };
    check().map_err(|reason| ValidateError::Svid { reason })
}

fn check_validity(not_before: i64, not_after: i64, now: SystemTime) -> Result<(), String> {
    let at = to_unix(now);
    if at < not_before {
        return Err(format!(
            "not yet valid until {}",
            rfc3339(super::times::from_unix(not_before))
        ));
    }
    if at > not_after {
        return Err(format!(
            "already expired as of {}",
            rfc3339(super::times::from_unix(not_after))
        ));
    }
    Ok(())
}

const DIGITAL_SIGNATURE: u16 = 1;
const KEY_CERT_SIGN: u16 = 1 << 5;
const CRL_SIGN: u16 = 1 << 6;
