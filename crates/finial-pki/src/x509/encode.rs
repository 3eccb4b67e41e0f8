//! From rcgen's drafts to bytes to sign.

use rcgen::string::Ia5String;
use rcgen::{PublicKeyData, SignatureAlgorithm};

use crate::der;
use crate::key::{KeyAlgorithm, PublicKey};

/// Why something could not be encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The key cannot sign certificates or be certified here.
    #[error("unsupported key algorithm")]
    UnsupportedKey,
    /// A name holds bytes outside of ASCII.
    #[error("name {name:?} is not ASCII")]
    NotAscii {
        /// The name.
        name: String,
    },
    /// A time lies outside of the years a certificate can say.
    #[error("time is outside of the range that a certificate can hold")]
    Time,
    /// rcgen refused.
    #[error("certificate draft was refused: {reason}")]
    Rcgen {
        /// What it said.
        reason: String,
    },
    /// What rcgen wrote did not have the expected parts.
    #[error("certificate draft has an unexpected form")]
    Malformed,
}

/// Stands in for a key towards rcgen: has its public half, and signs with a byte that is thrown away.
pub(crate) struct Unsigned<'a>(pub(crate) &'a PublicKey);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.key_bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.0.algorithm() {
            KeyAlgorithm::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::EcP521 => &rcgen::PKCS_ECDSA_P521_SHA512,
            KeyAlgorithm::Rsa { .. } => &rcgen::PKCS_RSA_SHA256,
            KeyAlgorithm::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

impl rcgen::SigningKey for Unsigned<'_> {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![0])
    }
}

pub(crate) fn ia5(name: &str) -> Result<Ia5String, EncodeError> {
    Ia5String::try_from(name).map_err(|_not_ascii| EncodeError::NotAscii {
        name: name.to_owned(),
    })
}

/// A certificate but for its signature.
pub(crate) struct UnsignedCertificate {
    pub(crate) message: Vec<u8>,
    algorithm: Vec<u8>,
}

impl UnsignedCertificate {
    /// Takes rcgen's certificate apart and puts in the exact names and key.
    pub(crate) fn from_draft(
        draft: &[u8],
        issuer: &[u8],
        subject: &[u8],
        key: &PublicKey,
    ) -> Result<Self, EncodeError> {
        let malformed = |_| EncodeError::Malformed;
        let outer = der::read_only(draft).map_err(malformed)?;
        let (unsigned, _) = der::read(outer.content).map_err(malformed)?;
        let [
            version,
            serial,
            algorithm,
            _issuer,
            validity,
            _subject,
            _key,
            extensions,
        ] = &*der::elements(unsigned.content).map_err(malformed)?
        else {
            return Err(EncodeError::Malformed);
        };
        let extensions = in_usual_order(extensions.content).map_err(malformed)?;
        let message = der::encode(
            der::SEQUENCE,
            &[
                version.raw,
                serial.raw,
                algorithm.raw,
                issuer,
                validity.raw,
                subject,
                key.spki_der(),
                &extensions,
            ],
        );
        Ok(Self {
            message,
            algorithm: algorithm.raw.to_vec(),
        })
    }

    pub(crate) fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        let signature = der::encode(der::BIT_STRING, &[&[0], signature]);
        der::encode(der::SEQUENCE, &[&self.message, &self.algorithm, &signature])
    }
}

/// Puts extensions in the order in which Go writes them, so that tools that print both show the same.
fn in_usual_order(extensions: &[u8]) -> Result<Vec<u8>, der::MalformedDer> {
    let sequence = der::read_only(extensions)?;
    let mut found = der::elements(sequence.content)?;
    found.sort_by_key(|extension| {
        let identifier = der::read(extension.content).map(|(identifier, _)| identifier.content);
        USUAL_ORDER
            .iter()
            .position(|usual| identifier == Ok(&[0x55, 0x1d, *usual]))
            .unwrap_or(USUAL_ORDER.len())
    });
    let mut parts = [&[][..]; 8];
    if found.len() > parts.len() {
        return Err(der::MalformedDer);
    }
    for (part, extension) in parts.iter_mut().zip(&found) {
        *part = extension.raw;
    }
    Ok(der::encode(
        der::EXTENSIONS,
        &[&der::encode(der::SEQUENCE, &parts)],
    ))
}

/// Last arc below `2.5.29`: key usage, extended key usage, basic constraints, subject key, authority key, alternative names.
const USUAL_ORDER: [u8; 6] = [15, 37, 19, 14, 35, 17];
