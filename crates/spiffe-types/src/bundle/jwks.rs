//! The SPIFFE bundle document: a JWK Set with a sequence number and a refresh hint (SPIFFE Trust Domain and Bundle §4).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use super::jwk::{self, Decoded, KeyMembers};
use super::{Bundle, JwtAuthority, X509Authority};
use crate::certificate::CertificateError;
use crate::id::TrustDomain;

const X509_SVID: &str = "x509-svid";
const JWT_SVID: &str = "jwt-svid";
const WIT_SVID: &str = "wit-svid";

/// Writes the bundle document, indented by four spaces. A sequence number or hint of zero is left out.
///
/// Authorities whose kind of key has no JWK form are left out: no consumer could use them.
pub fn to_json(bundle: &Bundle) -> String {
    let x509 = bundle.x509_authorities.iter().filter_map(|authority| {
        let (kty, members) = jwk::encode(authority.public_key_der())?;
        Some(Jwk {
            usage: Some(X509_SVID),
            kty,
            kid: None,
            members,
            x5c: Some([STANDARD.encode(authority.der())]),
        })
    });
    let jwt = bundle
        .jwt_authorities
        .iter()
        .filter_map(|authority| jwt_key(authority, Some(JWT_SVID)));
    write(&Document {
        keys: x509.chain(jwt).collect(),
        spiffe_sequence: bundle.sequence_number,
        spiffe_refresh_hint: bundle.refresh_hint.map_or(0, |hint| hint.as_secs()),
    })
}

/// Writes the JWT authorities as a plain JWK Set, the form `FetchJWTBundles` carries: without `use`, sequence and hint.
pub fn jwt_to_json(bundle: &Bundle) -> String {
    write(&Document {
        keys: bundle
            .jwt_authorities
            .iter()
            .filter_map(|authority| jwt_key(authority, None))
            .collect(),
        spiffe_sequence: 0,
        spiffe_refresh_hint: 0,
    })
}

/// Reads a bundle document as the standard asks of a consumer: keys of an unknown `kty` or `use` and X.509 entries
/// without a certificate are passed over.
pub fn from_json(trust_domain: &TrustDomain, text: &str) -> Result<Bundle, JwksError> {
    let document = ReadDocument::parse(text)?;
    let mut bundle = document.envelope(trust_domain);
    bundle.sequence_number = document.spiffe_sequence.unwrap_or_default();
    for (index, key) in document
        .keys
        .ok_or(JwksError::NoKeys)?
        .into_iter()
        .enumerate()
    {
        let known = |name: &str| key.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(kty), Some(usage)) = (known("kty"), known("use")) else {
            continue;
        };
        if !jwk::is_known_type(&kty) {
            continue;
        }
        match usage.as_str() {
            X509_SVID => {
                let key = ReadJwk::parse(key, index)?;
                if let Some(certificate) = key.x5c.iter().flatten().next() {
                    add_x509(&mut bundle, index, certificate)?;
                }
            }
            JWT_SVID => {
                let key = ReadJwk::parse(key, index)?;
                match jwk::decode(&kty, &key.members) {
                    Decoded::Key(spki) => add_jwt(&mut bundle, index, key.kid.as_deref(), spki)?,
                    Decoded::Unknown => {}
                    Decoded::Malformed => return Err(JwksError::MalformedKey { index }),
                }
            }
            _ => {}
        }
    }
    Ok(bundle)
}

/// Reads a bundle document as SPIRE does: each key must have a known `use` and a known key, each X.509 entry exactly one
/// certificate. The sequence number is not read.
pub fn from_json_strict(trust_domain: &TrustDomain, text: &str) -> Result<Bundle, JwksError> {
    let document = ReadDocument::parse(text)?;
    let mut bundle = document.envelope(trust_domain);
    for (index, key) in document
        .keys
        .ok_or(JwksError::NoKeys)?
        .into_iter()
        .enumerate()
    {
        let key = ReadJwk::parse(key, index)?;
        let kty = key.kty.as_deref().unwrap_or_default();
        let Decoded::Key(spki) = jwk::decode(kty, &key.members) else {
            return Err(JwksError::MalformedKey { index });
        };
        match key.usage.as_deref() {
            Some(X509_SVID) => match key.x5c.as_deref().unwrap_or_default() {
                [certificate] => {
                    let authority = add_x509(&mut bundle, index, certificate)?;
                    if *authority.public_key_der() != spki {
                        return Err(JwksError::KeyMismatch { index });
                    }
                }
                certificates => {
                    return Err(JwksError::CertificateCount {
                        index,
                        count: certificates.len(),
                    });
                }
            },
            Some(JWT_SVID) => add_jwt(&mut bundle, index, key.kid.as_deref(), spki)?,
            Some(WIT_SVID) => {
                if key.kid.is_none_or(|kid| kid.is_empty()) {
                    return Err(JwksError::MissingKeyId {
                        index,
                        usage: WIT_SVID,
                    });
                }
            }
            None | Some("") => return Err(JwksError::MissingUse { index }),
            Some(other) => {
                return Err(JwksError::UnknownUse {
                    index,
                    usage: other.to_owned(),
                });
            }
        }
    }
    Ok(bundle)
}

fn add_x509(
    bundle: &mut Bundle,
    index: usize,
    certificate: &str,
) -> Result<X509Authority, JwksError> {
    let der = STANDARD
        .decode(certificate)
        .map_err(|source| JwksError::Base64 { index, source })?;
    let authority = X509Authority::parse(Bytes::from(der), false)
        .map_err(|source| JwksError::Certificate { index, source })?;
    if !bundle.x509_authorities.contains(&authority) {
        bundle.x509_authorities.push(authority.clone());
    }
    Ok(authority)
}

fn add_jwt(
    bundle: &mut Bundle,
    index: usize,
    key_id: Option<&str>,
    spki: Vec<u8>,
) -> Result<(), JwksError> {
    let key_id = key_id.filter(|key_id| !key_id.is_empty());
    let key_id = key_id.ok_or(JwksError::MissingKeyId {
        index,
        usage: JWT_SVID,
    })?;
    bundle
        .jwt_authorities
        .retain(|authority| authority.key_id != key_id);
    bundle.jwt_authorities.push(JwtAuthority {
        key_id: key_id.to_owned(),
        public_key: Bytes::from(spki),
        expires_at: None,
        tainted: false,
    });
    Ok(())
}

fn jwt_key<'a>(authority: &'a JwtAuthority, usage: Option<&'static str>) -> Option<Jwk<'a>> {
    let (kty, members) = jwk::encode(&authority.public_key)?;
    Some(Jwk {
        usage,
        kty,
        kid: Some(&authority.key_id),
        members,
        x5c: None,
    })
}

fn write(document: &Document<'_>) -> String {
    let mut text = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    // Writing strings and numbers into memory cannot fail.
    document
        .serialize(&mut serializer)
        .map(|()| String::from_utf8(text).unwrap_or_default())
        .unwrap_or_default()
}

#[derive(Serialize)]
struct Document<'a> {
    keys: Vec<Jwk<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_sequence: u64,
    #[serde(skip_serializing_if = "is_zero")]
    spiffe_refresh_hint: u64,
}

#[derive(Serialize)]
struct Jwk<'a> {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<&'static str>,
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
    #[serde(flatten)]
    members: KeyMembers,
    #[serde(skip_serializing_if = "Option::is_none")]
    x5c: Option<[String; 1]>,
}

#[derive(Deserialize)]
struct ReadDocument {
    keys: Option<Vec<Value>>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

impl ReadDocument {
    fn parse(text: &str) -> Result<Self, JwksError> {
        serde_json::from_str(text).map_err(|source| JwksError::Json {
            source: JsonError::new(&source),
        })
    }

    fn envelope(&self, trust_domain: &TrustDomain) -> Bundle {
        let hint = self.spiffe_refresh_hint.filter(|seconds| *seconds > 0);
        Bundle {
            refresh_hint: hint.map(Duration::from_secs),
            ..Bundle::empty(trust_domain.clone())
        }
    }
}

#[derive(Deserialize)]
struct ReadJwk {
    #[serde(rename = "use")]
    usage: Option<String>,
    kty: Option<String>,
    kid: Option<String>,
    #[serde(flatten)]
    members: KeyMembers,
    x5c: Option<Vec<String>>,
}

impl ReadJwk {
    fn parse(key: Value, index: usize) -> Result<Self, JwksError> {
        serde_json::from_value(key).map_err(|source| JwksError::Key {
            index,
            source: JsonError::new(&source),
        })
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Why a text is no bundle document. Entries are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// The text is not the JSON it should be.
    #[error("failed to decode bundle")]
    Json {
        /// What the JSON parser says.
        source: JsonError,
    },
    /// There is no `keys` array.
    #[error("no authorities found: the bundle has no keys array")]
    NoKeys,
    /// An entry is not the JSON it should be.
    #[error("failed to decode key entry {index}")]
    Key {
        /// Which entry.
        index: usize,
        /// What the JSON parser says.
        source: JsonError,
    },
    /// An entry has no `use`.
    #[error("missing use for key entry {index}")]
    MissingUse {
        /// Which entry.
        index: usize,
    },
    /// An entry is meant for something else.
    #[error("unrecognized use {usage:?} for key entry {index}")]
    UnknownUse {
        /// Which entry.
        index: usize,
        /// What it is meant for.
        usage: String,
    },
    /// An entry has another number of certificates than one.
    #[error("expected a single certificate in x509-svid entry {index}; got {count}")]
    CertificateCount {
        /// Which entry.
        index: usize,
        /// How many it has.
        count: usize,
    },
    /// An entry has no `kid`.
    #[error("missing key ID in {usage} entry {index}")]
    MissingKeyId {
        /// Which entry.
        index: usize,
        /// What it is meant for.
        usage: &'static str,
    },
    /// The members of a key are missing or wrong, or its kind is unknown.
    #[error("malformed or unsupported public key in key entry {index}")]
    MalformedKey {
        /// Which entry.
        index: usize,
    },
    /// A certificate holds another key than its entry.
    #[error("public keys in key and x5c fields of key entry {index} do not match")]
    KeyMismatch {
        /// Which entry.
        index: usize,
    },
    /// A certificate is not Base64.
    #[error("certificate in x509-svid entry {index} is not valid base64")]
    Base64 {
        /// Which entry.
        index: usize,
        /// What the decoder says.
        source: base64::DecodeError,
    },
    /// A certificate cannot be read.
    #[error("certificate in x509-svid entry {index} cannot be parsed")]
    Certificate {
        /// Which entry.
        index: usize,
        /// Why not.
        source: CertificateError,
    },
}

/// What a JSON parser says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct JsonError {
    text: String,
}

impl JsonError {
    fn new(error: &serde_json::Error) -> Self {
        Self {
            text: error.to_string(),
        }
    }
}
