//! Public keys between their PKIX and their JWK forms (RFC 5280 §4.1.2.7, RFC 7518 §6, RFC 8037 §2).

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The members of a JWK that carry a public key, in the order SPIRE writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyMembers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

/// What became of the members of a JWK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A `SubjectPublicKeyInfo` in DER.
    Key(Vec<u8>),
    /// A key type or a curve that is not known here.
    Unknown,
    /// Members that are missing or wrong for the key type.
    Malformed,
}

struct Curve {
    name: &'static str,
    oid: &'static str,
    oid_der: &'static [u8],
    coordinate_bytes: usize,
}

const CURVES: [Curve; 3] = [
    Curve {
        name: "P-256",
        oid: "1.2.840.10045.3.1.7",
        oid_der: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        coordinate_bytes: 32,
    },
    Curve {
        name: "P-384",
        oid: "1.3.132.0.34",
        oid_der: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        coordinate_bytes: 48,
    },
    Curve {
        name: "P-521",
        oid: "1.3.132.0.35",
        oid_der: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        coordinate_bytes: 66,
    },
];

const ED25519: &str = "1.3.101.112";
const ED25519_DER: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
const ED25519_BYTES: usize = 32;
const EC_PUBLIC_KEY_DER: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA_ENCRYPTION_DER: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: [u8; 2] = [0x05, 0x00];
const SEQUENCE: u8 = 0x30;
const UNCOMPRESSED_POINT: u8 = 0x04;

/// RFC 7515 leaves padding off; some producers do not.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Tells whether `spki` is one public key in PKIX form, of whatever kind.
pub(super) fn is_public_key(spki: &[u8]) -> bool {
    matches!(SubjectPublicKeyInfo::from_der(spki), Ok((rest, key)) if rest.is_empty() && key.parsed().is_ok())
}

/// The key type and members of a PKIX key, if JOSE has words for it.
pub(super) fn encode(spki: &[u8]) -> Option<(&'static str, KeyMembers)> {
    let (_, key) = SubjectPublicKeyInfo::from_der(spki).ok()?;
    let text = |bytes: &[u8]| Some(URL_SAFE_NO_PAD.encode(bytes));
    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => {
            let members = KeyMembers {
                n: text(without_leading_zeros(rsa.modulus)),
                e: text(without_leading_zeros(rsa.exponent)),
                ..KeyMembers::default()
            };
            Some(("RSA", members))
        }
        PublicKey::EC(point) => {
            let parameters = key
                .algorithm
                .parameters
                .as_ref()?
                .as_oid()
                .ok()?
                .to_id_string();
            let curve = CURVES.iter().find(|curve| curve.oid == parameters)?;
            let (form, coordinates) = point.data().split_first()?;
            if *form != UNCOMPRESSED_POINT || coordinates.len() != 2 * curve.coordinate_bytes {
                return None;
            }
            let (x, y) = coordinates.split_at_checked(curve.coordinate_bytes)?;
            let members = KeyMembers {
                crv: Some(curve.name.to_owned()),
                x: text(x),
                y: text(y),
                ..KeyMembers::default()
            };
            Some(("EC", members))
        }
        PublicKey::Unknown(raw) if key.algorithm.algorithm.to_id_string() == ED25519 => {
            let members = KeyMembers {
                crv: Some("Ed25519".to_owned()),
                x: text(raw),
                ..KeyMembers::default()
            };
            Some(("OKP", members))
        }
        _ => None,
    }
}

/// Tells whether keys of this type can be read at all.
pub(super) fn is_known_type(kty: &str) -> bool {
    matches!(kty, "RSA" | "EC" | "OKP")
}

/// The PKIX form of a JWK.
pub(super) fn decode(kty: &str, members: &KeyMembers) -> Decoded {
    let known = match (kty, members.crv.as_deref()) {
        ("RSA", _) => decode_rsa(members),
        ("EC", Some(name)) => match CURVES.iter().find(|curve| curve.name == name) {
            Some(curve) => decode_ec(curve, members),
            None => return Decoded::Unknown,
        },
        ("OKP", Some("Ed25519")) => decode_ed25519(members),
        ("EC", None) => None,
        _ => return Decoded::Unknown,
    };
    known.map_or(Decoded::Malformed, Decoded::Key)
}

fn decode_rsa(members: &KeyMembers) -> Option<Vec<u8>> {
    let modulus = number(members.n.as_deref())?;
    let exponent = number(members.e.as_deref())?;
    let key = tlv(SEQUENCE, &[&unsigned(&modulus), &unsigned(&exponent)]);
    Some(spki(&[RSA_ENCRYPTION_DER, &NULL], &key))
}

fn decode_ec(curve: &Curve, members: &KeyMembers) -> Option<Vec<u8>> {
    let x = bytes(members.x.as_deref())?;
    let y = bytes(members.y.as_deref())?;
    if x.len() != curve.coordinate_bytes || y.len() != curve.coordinate_bytes {
        return None;
    }
    let point = [&[UNCOMPRESSED_POINT], x.as_slice(), &y].concat();
    Some(spki(&[EC_PUBLIC_KEY_DER, curve.oid_der], &point))
}

fn decode_ed25519(members: &KeyMembers) -> Option<Vec<u8>> {
    let key = bytes(members.x.as_deref())?;
    (key.len() == ED25519_BYTES).then(|| spki(&[ED25519_DER], &key))
}

fn bytes(member: Option<&str>) -> Option<Vec<u8>> {
    BASE64_URL.decode(member?).ok()
}

/// A number above zero, without leading zeros.
fn number(member: Option<&str>) -> Option<Vec<u8>> {
    let bytes = bytes(member)?;
    let magnitude = without_leading_zeros(&bytes);
    (!magnitude.is_empty()).then(|| magnitude.to_vec())
}

fn without_leading_zeros(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn spki(algorithm: &[&[u8]], key: &[u8]) -> Vec<u8> {
    let no_unused_bits: &[u8] = &[0];
    tlv(
        SEQUENCE,
        &[
            &tlv(SEQUENCE, algorithm),
            &tlv(BIT_STRING, &[no_unused_bits, key]),
        ],
    )
}

fn unsigned(magnitude: &[u8]) -> Vec<u8> {
    // A leading zero keeps the number positive.
    let sign: &[u8] = if magnitude.first().is_some_and(|byte| *byte > 0x7f) {
        &[0]
    } else {
        &[]
    };
    tlv(INTEGER, &[sign, magnitude])
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut element = vec![tag];
    if let Ok(short @ ..=0x7f) = u8::try_from(length) {
        element.push(short);
    } else {
        let octets = length.to_be_bytes();
        let octets = without_leading_zeros(&octets);
        // `usize` has at most eight octets.
        element.push(0x80 | u8::try_from(octets.len()).unwrap_or_default());
        element.extend_from_slice(octets);
    }
    for part in parts {
        element.extend_from_slice(part);
    }
    element
}
