//! What the halves say to each other: JSON with base64, as SPIRE's do.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Length of the nonces of either side.
pub const NONCE_BYTES: usize = 32;

/// The payload that opens an attestation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AttestationData {
    /// DER certificates, leaf first.
    pub certificates: Vec<Base64>,
}

/// The server's challenge; exactly one field is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Challenge {
    /// For RSA keys.
    pub rsa_signature: Option<NonceChallenge>,
    /// For ECDSA keys.
    pub ecdsa_signature: Option<NonceChallenge>,
}

/// A nonce to be signed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NonceChallenge {
    /// The server's nonce.
    pub nonce: Base64,
}

/// The agent's response; the field of the challenge is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Response {
    /// From RSA keys.
    pub rsa_signature: Option<RsaResponse>,
    /// From ECDSA keys.
    pub ecdsa_signature: Option<EcdsaResponse>,
}

/// An RSA-PSS signature over the SHA-256 of both nonces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RsaResponse {
    /// The agent's nonce.
    pub nonce: Base64,
    /// The signature.
    pub signature: Base64,
}

/// An ECDSA signature over the SHA-256 of both nonces.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EcdsaResponse {
    /// The agent's nonce.
    pub nonce: Base64,
    /// The number r, big endian.
    pub r: Base64,
    /// The number s, big endian.
    pub s: Base64,
}

/// Bytes that JSON holds as standard base64; `null` is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// Joins the nonces into the message that is signed.
pub(super) fn combined(challenge: &Base64, response: &Base64) -> Result<Vec<u8>, &'static str> {
    if challenge.0.len() != NONCE_BYTES {
        return Err("invalid challenge nonce");
    }
    if response.0.len() != NONCE_BYTES {
        return Err("invalid response nonce");
    }
    Ok([challenge.0.as_slice(), &response.0].concat())
}

/// Encodes r and s as an ASN.1 signature.
pub(super) fn signature_der(r: &[u8], s: &[u8]) -> Option<Vec<u8>> {
    let numbers = [integer(r)?, integer(s)?].concat();
    let mut out = vec![0x30];
    let length = u8::try_from(numbers.len()).ok()?;
    if length >= 0x80 {
        out.push(0x81);
    }
    out.push(length);
    out.extend(numbers);
    Some(out)
}

/// Takes r and s out of an ASN.1 signature.
pub(super) fn signature_parts(der: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (&0x30, rest) = der.split_first()? else {
        return None;
    };
    let (&length, rest) = rest.split_first()?;
    let rest = if length == 0x81 {
        rest.split_first()?.1
    } else {
        rest
    };
    let (r, rest) = read_integer(rest)?;
    let (s, rest) = read_integer(rest)?;
    rest.is_empty().then_some((r, s))
}

fn integer(value: &[u8]) -> Option<Vec<u8>> {
    let zeros = value.iter().take_while(|byte| **byte == 0).count();
    let significant = value.get(zeros..)?;
    let sign = significant.first().is_none_or(|first| first & 0x80 != 0);
    let length = u8::try_from(significant.len() + usize::from(sign))
        .ok()
        .filter(|length| *length < 0x80)?;
    let mut out = vec![0x02, length];
    if sign {
        out.push(0);
    }
    out.extend(significant);
    Some(out)
}

fn read_integer(input: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (&0x02, rest) = input.split_first()? else {
        return None;
    };
    let (&length, rest) = rest.split_first()?;
    let (value, rest) = rest.split_at_checked(usize::from(length))?;
    let value = value
        .iter()
        .skip_while(|byte| **byte == 0)
        .copied()
        .collect();
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_the_fields_own() {
        let data = AttestationData {
            certificates: vec![Base64(b"abc".to_vec())],
        };
        assert_eq!(
            serde_json::to_string(&data).unwrap(),
            r#"{"certificates":["YWJj"]}"#
        );
        let challenge = Challenge {
            rsa_signature: None,
            ecdsa_signature: Some(NonceChallenge {
                nonce: Base64(vec![1]),
            }),
        };
        assert_eq!(
            serde_json::to_string(&challenge).unwrap(),
            r#"{"rsa_signature":null,"ecdsa_signature":{"nonce":"AQ=="}}"#
        );
        let read: Challenge = serde_json::from_str(r#"{"rsa_signature":{"nonce":null}}"#).unwrap();
        assert_eq!(read.rsa_signature, Some(NonceChallenge::default()));
    }

    #[test]
    fn signature_numbers_survive_asn1_at_every_edge() {
        for (r, s) in [
            (vec![1], vec![0x80]),
            (vec![0xff; 66], vec![0x7f; 66]),
            (vec![0x12; 32], vec![0x9a; 32]),
        ] {
            let der = signature_der(&r, &s).unwrap();
            assert_eq!(signature_parts(&der), Some((r, s)));
        }
        assert_eq!(signature_der(&[0xff; 200], &[1]), None);
    }
}
