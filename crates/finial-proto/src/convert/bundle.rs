//! Bundles and their authorities.

use std::time::Duration;

use spiffe_types::bundle::{Bundle, JwtAuthority, X509Authority};
use spiffe_types::svid::x509::parse_der_sequence;

use super::{ConvertError, id, time};
use crate::pb::spire::api::types;

/// The bundle as the API shows it.
pub fn to_pb(bundle: &Bundle) -> types::Bundle {
    types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: bundle.x509_authorities.iter().map(x509_to_pb).collect(),
        jwt_authorities: bundle.jwt_authorities.iter().map(jwt_to_pb).collect(),
        refresh_hint: bundle
            .refresh_hint
            .map_or(0, |hint| i64::try_from(hint.as_secs()).unwrap_or(i64::MAX)),
        sequence_number: bundle.sequence_number,
        wit_authorities: Vec::new(),
    }
}

/// A bundle from an operator or another server: nobody but the own server says that an authority is tainted, so these
/// flags are ignored, and so are WIT authorities.
pub fn from_pb(bundle: &types::Bundle) -> Result<Bundle, ConvertError> {
    read(bundle, Taint::Ignored)
}

/// A bundle from the server that an agent belongs to: tainted flags count, since the agent replaces what such
/// authorities signed.
pub fn from_own_server(bundle: &types::Bundle) -> Result<Bundle, ConvertError> {
    read(bundle, Taint::Believed)
}

/// X.509 authorities that an operator appends; tainted flags are ignored. One field may hold several certificates.
pub fn x509_from_pb(
    authorities: &[types::X509Certificate],
) -> Result<Vec<X509Authority>, ConvertError> {
    read_x509(authorities, Taint::Ignored)
}

/// JWT authorities that an operator appends; tainted flags are ignored.
pub fn jwt_from_pb(authorities: &[types::JwtKey]) -> Result<Vec<JwtAuthority>, ConvertError> {
    authorities
        .iter()
        .map(|authority| read_jwt(authority, Taint::Ignored))
        .collect()
}

/// One X.509 authority.
pub fn x509_to_pb(authority: &X509Authority) -> types::X509Certificate {
    types::X509Certificate {
        asn1: authority.der().clone(),
        tainted: authority.tainted,
    }
}

/// One JWT authority.
pub fn jwt_to_pb(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: authority.public_key.clone(),
        key_id: authority.key_id.clone(),
        expires_at: time::optional_to_unix(authority.expires_at),
        tainted: authority.tainted,
    }
}

#[derive(Clone, Copy)]
enum Taint {
    Believed,
    Ignored,
}

impl Taint {
    const fn read(self, flag: bool) -> bool {
        match self {
            Self::Believed => flag,
            Self::Ignored => false,
        }
    }
}

fn read(bundle: &types::Bundle, taint: Taint) -> Result<Bundle, ConvertError> {
    let trust_domain = id::trust_domain(&bundle.trust_domain)
        .map_err(|error| error.within("invalid trust domain"))?;
    let x509_authorities = read_x509(&bundle.x509_authorities, taint)
        .map_err(|error| error.within("unable to parse X.509 authority"))?;
    let jwt_authorities = bundle
        .jwt_authorities
        .iter()
        .map(|authority| read_jwt(authority, taint));
    let jwt_authorities = jwt_authorities
        .collect::<Result<_, _>>()
        .map_err(|error| error.within("unable to parse JWT authority"))?;
    let refresh_hint = u64::try_from(bundle.refresh_hint)
        .ok()
        .filter(|seconds| *seconds > 0);
    Ok(Bundle {
        trust_domain,
        x509_authorities,
        jwt_authorities,
        refresh_hint: refresh_hint.map(Duration::from_secs),
        sequence_number: bundle.sequence_number,
    })
}

fn read_x509(
    authorities: &[types::X509Certificate],
    taint: Taint,
) -> Result<Vec<X509Authority>, ConvertError> {
    let mut read = Vec::with_capacity(authorities.len());
    for authority in authorities {
        for der in parse_der_sequence(&authority.asn1).map_err(ConvertError::DerSequence)? {
            let tainted = taint.read(authority.tainted);
            read.push(X509Authority::parse(der, tainted).map_err(ConvertError::Certificate)?);
        }
    }
    Ok(read)
}

fn read_jwt(authority: &types::JwtKey, taint: Taint) -> Result<JwtAuthority, ConvertError> {
    let parsed = JwtAuthority::parse(&authority.key_id, authority.public_key.clone());
    let mut parsed = parsed.map_err(ConvertError::JwtAuthority)?;
    parsed.expires_at = time::optional_from_unix(authority.expires_at);
    parsed.tainted = taint.read(authority.tainted);
    Ok(parsed)
}
