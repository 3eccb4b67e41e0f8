//! Keys as the rest of the system sees them: a public half that knows its identifier, and a signer that may be remote.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use bytes::Bytes;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::AlgorithmIdentifier;

use crate::der;

/// The kinds of key that can be asked for, by the names used in configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// ECDSA over P-256, `ec-p256`.
    EcP256,
    /// ECDSA over P-384, `ec-p384`.
    EcP384,
    /// RSA of 2048 bits, `rsa-2048`.
    Rsa2048,
    /// RSA of 4096 bits, `rsa-4096`.
    Rsa4096,
}

impl KeyKind {
    /// Returns the configuration name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returned for a key kind nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key type {0:?} is unknown; must be one of [rsa-2048, rsa-4096, ec-p256, ec-p384]")]
pub struct UnknownKeyKind(String);

impl FromStr for KeyKind {
    type Err = UnknownKeyKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "ec-p256" => Ok(Self::EcP256),
            "ec-p384" => Ok(Self::EcP384),
            "rsa-2048" => Ok(Self::Rsa2048),
            "rsa-4096" => Ok(Self::Rsa4096),
            other => Err(UnknownKeyKind(other.to_owned())),
        }
    }
}

/// How a message is hashed, padded and signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// ECDSA over P-256 with SHA-256, ASN.1 encoded.
    EcdsaP256Sha256,
    /// ECDSA over P-384 with SHA-384, ASN.1 encoded.
    EcdsaP384Sha384,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSA-PSS with SHA-256, MGF1 with SHA-256 and a salt as long as the hash.
    RsaPssSha256,
}

impl SignatureScheme {
    /// Returns the scheme that certificates are signed with, or `None` for a key that signs none here.
    pub fn default_for(key: &PublicKey) -> Option<Self> {
        match key.algorithm {
            KeyAlgorithm::EcP256 => Some(Self::EcdsaP256Sha256),
            KeyAlgorithm::EcP384 => Some(Self::EcdsaP384Sha384),
            KeyAlgorithm::Rsa { .. } => Some(Self::RsaPkcs1Sha256),
            KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => None,
        }
    }
}

impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
            Self::EcdsaP384Sha384 => "ECDSA P-384 with SHA-384",
            Self::RsaPkcs1Sha256 => "RSA PKCS#1 with SHA-256",
            Self::RsaPssSha256 => "RSA-PSS with SHA-256",
        })
    }
}

/// What a public key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA over P-256.
    EcP256,
    /// ECDSA over P-384.
    EcP384,
    /// ECDSA over P-521.
    EcP521,
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: usize,
    },
    /// Ed25519.
    Ed25519,
}

/// A public key, with its subject key identifier worked out once.
#[derive(Clone)]
pub struct PublicKey {
    spki: Bytes,
    key_bits: Bytes,
    subject_key_id: [u8; 20],
    algorithm: KeyAlgorithm,
}

/// Returned for bytes that hold no public key we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Not a `SubjectPublicKeyInfo`.
    #[error("malformed public key")]
    Malformed,
    /// A key of another algorithm.
    #[error("unsupported public key algorithm; use ECDSA (P-256, P-384, P-521), RSA or Ed25519")]
    Unsupported,
}

impl PublicKey {
    /// Reads a DER `SubjectPublicKeyInfo`.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let spki = Bytes::copy_from_slice(spki);
        let content = der::read_only(&spki)
            .and_then(|e| e.expect(der::SEQUENCE))
            .map_err(malformed)?;
        let (algorithm, rest) = der::read(content).map_err(malformed)?;
        let bits = der::read_only(rest)
            .and_then(|e| e.expect(der::BIT_STRING))
            .map_err(malformed)?;
        let (unused, key_bits) = bits.split_first().ok_or(PublicKeyError::Malformed)?;
        if *unused != 0 {
            return Err(PublicKeyError::Malformed);
        }
        let algorithm = match algorithm.raw {
            P256_ALGORITHM => KeyAlgorithm::EcP256,
            P384_ALGORITHM => KeyAlgorithm::EcP384,
            P521_ALGORITHM => KeyAlgorithm::EcP521,
            RSA_ALGORITHM => KeyAlgorithm::Rsa {
                bits: modulus_bits(key_bits)?,
            },
            ED25519_ALGORITHM => KeyAlgorithm::Ed25519,
            _ => return Err(PublicKeyError::Unsupported),
        };
        let mut subject_key_id = [0; 20];
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, key_bits);
        subject_key_id.copy_from_slice(digest.as_ref());
        let key_bits = spki.slice_ref(key_bits);
        Ok(Self {
            spki,
            key_bits,
            subject_key_id,
            algorithm,
        })
    }

    /// Returns the DER `SubjectPublicKeyInfo`.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Returns the key itself, without its algorithm.
    pub fn key_bits(&self) -> &[u8] {
        &self.key_bits
    }

    /// Returns the SHA-1 of the key bits, as in RFC 5280 section 4.2.1.2 (1).
    pub const fn subject_key_id(&self) -> [u8; 20] {
        self.subject_key_id
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Returns the configurable kind this key is of, if it is of one.
    pub const fn kind(&self) -> Option<KeyKind> {
        match self.algorithm {
            KeyAlgorithm::EcP256 => Some(KeyKind::EcP256),
            KeyAlgorithm::EcP384 => Some(KeyKind::EcP384),
            KeyAlgorithm::Rsa { bits: 2048 } => Some(KeyKind::Rsa2048),
            KeyAlgorithm::Rsa { bits: 4096 } => Some(KeyKind::Rsa4096),
            KeyAlgorithm::Rsa { .. } | KeyAlgorithm::EcP521 | KeyAlgorithm::Ed25519 => None,
        }
    }

    /// Checks that `signature` over `message` was made by this key.
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifySignatureError> {
        let algorithm: &'static dyn VerificationAlgorithm = match (scheme, self.algorithm) {
            (SignatureScheme::EcdsaP256Sha256, KeyAlgorithm::EcP256) => {
                &signature::ECDSA_P256_SHA256_ASN1
            }
            (SignatureScheme::EcdsaP384Sha384, KeyAlgorithm::EcP384) => {
                &signature::ECDSA_P384_SHA384_ASN1
            }
            (SignatureScheme::RsaPkcs1Sha256, KeyAlgorithm::Rsa { .. }) => {
                &signature::RSA_PKCS1_2048_8192_SHA256
            }
            (SignatureScheme::RsaPssSha256, KeyAlgorithm::Rsa { .. }) => {
                &signature::RSA_PSS_2048_8192_SHA256
            }
            _ => return Err(VerifySignatureError::Unsupported),
        };
        self.verify_with(algorithm, message, signature)
    }

    /// Checks an ECDSA signature over a P-256, P-384 or P-521 key with SHA-256, RSA ones by PSS with SHA-256 and any salt.
    ///
    /// This is what proof of possession asks of keys that may be of any size.
    pub fn verify_possession(
        &self,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifySignatureError> {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            KeyAlgorithm::EcP256 => &signature::ECDSA_P256_SHA256_ASN1,
            KeyAlgorithm::EcP384 => &signature::ECDSA_P384_SHA256_ASN1,
            KeyAlgorithm::EcP521 => &signature::ECDSA_P521_SHA256_ASN1,
            KeyAlgorithm::Rsa { .. } => {
                return if crate::pss::verify_any_salt(&self.key_bits, message, signature) {
                    Ok(())
                } else {
                    Err(VerifySignatureError::Mismatch)
                };
            }
            KeyAlgorithm::Ed25519 => return Err(VerifySignatureError::Unsupported),
        };
        self.verify_with(algorithm, message, signature)
    }

    /// Checks a signature whose algorithm a certificate or CSR names.
    pub(crate) fn verify_x509(
        &self,
        algorithm: &AlgorithmIdentifier<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifySignatureError> {
        let algorithm =
            x509_algorithm(self.algorithm, algorithm).ok_or(VerifySignatureError::Unsupported)?;
        self.verify_with(algorithm, message, signature)
    }

    fn verify_with(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifySignatureError> {
        UnparsedPublicKey::new(algorithm, &self.key_bits)
            .verify(message, signature)
            .map_err(|_unspecified| VerifySignatureError::Mismatch)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PublicKey")
            .field("algorithm", &self.algorithm)
            .field("subject_key_id", &hex::encode(self.subject_key_id))
            .finish_non_exhaustive()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

/// Why a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifySignatureError {
    /// The scheme does not fit the key, or nobody here knows it.
    #[error("unsupported signature algorithm for this key")]
    Unsupported,
    /// The signature was made by another key or over another message.
    #[error("signature verification failed")]
    Mismatch,
}

/// Why a signature was not made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The key cannot sign by this scheme.
    #[error("key cannot sign with {scheme}")]
    UnsupportedScheme {
        /// What was asked for.
        scheme: SignatureScheme,
    },
    /// The key holder did not sign.
    #[error("key manager failed to sign")]
    Failed {
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A private key that signs, wherever it lives.
#[async_trait]
pub trait SigningKey: fmt::Debug + Send + Sync {
    /// Returns the public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` by `scheme`; the message is hashed here, not by the caller.
    async fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

const P256_ALGORITHM: &[u8] = &[
    0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1,
    7,
];
const P384_ALGORITHM: &[u8] = &[
    0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22,
];
const P521_ALGORITHM: &[u8] = &[
    0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x23,
];
const RSA_ALGORITHM: &[u8] = &[
    0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
];
const ED25519_ALGORITHM: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

// Object identifiers of signature algorithms, content only.
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];

fn x509_algorithm(
    key: KeyAlgorithm,
    identifier: &AlgorithmIdentifier<'_>,
) -> Option<&'static dyn VerificationAlgorithm> {
    let found: &'static dyn VerificationAlgorithm = match (identifier.algorithm.as_bytes(), key) {
        (ECDSA_SHA256, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA256_ASN1,
        (ECDSA_SHA384, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA384_ASN1,
        (ECDSA_SHA512, KeyAlgorithm::EcP256) => &signature::ECDSA_P256_SHA512_ASN1,
        (ECDSA_SHA256, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA256_ASN1,
        (ECDSA_SHA384, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA384_ASN1,
        (ECDSA_SHA512, KeyAlgorithm::EcP384) => &signature::ECDSA_P384_SHA512_ASN1,
        (ECDSA_SHA256, KeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA256_ASN1,
        (ECDSA_SHA384, KeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA384_ASN1,
        (ECDSA_SHA512, KeyAlgorithm::EcP521) => &signature::ECDSA_P521_SHA512_ASN1,
        (RSA_SHA256, KeyAlgorithm::Rsa { .. }) => &signature::RSA_PKCS1_2048_8192_SHA256,
        (RSA_SHA384, KeyAlgorithm::Rsa { .. }) => &signature::RSA_PKCS1_2048_8192_SHA384,
        (RSA_SHA512, KeyAlgorithm::Rsa { .. }) => &signature::RSA_PKCS1_2048_8192_SHA512,
        (RSA_PSS, KeyAlgorithm::Rsa { .. }) => {
            let parameters = RsaSsaPssParams::try_from(identifier.parameters.as_ref()?).ok()?;
            match parameters.hash_algorithm_oid().as_bytes() {
                SHA256 => &signature::RSA_PSS_2048_8192_SHA256,
                SHA384 => &signature::RSA_PSS_2048_8192_SHA384,
                SHA512 => &signature::RSA_PSS_2048_8192_SHA512,
                _ => return None,
            }
        }
        (ED25519, KeyAlgorithm::Ed25519) => &signature::ED25519,
        _ => return None,
    };
    Some(found)
}

fn modulus_bits(key: &[u8]) -> Result<usize, PublicKeyError> {
    let content = der::read_only(key)
        .and_then(|e| e.expect(der::SEQUENCE))
        .map_err(malformed)?;
    let (modulus, _) = der::read(content).map_err(malformed)?;
    let modulus = modulus.expect(der::INTEGER).map_err(malformed)?;
    let significant = modulus.iter().skip_while(|byte| **byte == 0);
    let first = significant.clone().next().copied().unwrap_or(0);
    let zeros = usize::try_from(first.leading_zeros()).unwrap_or(0);
    Ok((significant.count() * 8).saturating_sub(zeros))
}

const fn malformed(_: der::MalformedDer) -> PublicKeyError {
    PublicKeyError::Malformed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::software::SoftwareKey;

    #[test]
    fn kinds_keep_their_configuration_names() {
        for kind in [
            KeyKind::EcP256,
            KeyKind::EcP384,
            KeyKind::Rsa2048,
            KeyKind::Rsa4096,
        ] {
            assert_eq!(kind.to_string().parse::<KeyKind>().unwrap(), kind);
        }
        assert!("ec-p521".parse::<KeyKind>().is_err());
    }

    #[test]
    fn a_public_key_survives_its_encoding_and_knows_its_kind() {
        for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
            let key = SoftwareKey::generate(kind).unwrap();
            let read = PublicKey::from_spki_der(key.public_key().spki_der()).unwrap();
            assert_eq!(&read, key.public_key());
            assert_eq!(read.kind(), Some(kind));
        }
    }

    #[tokio::test]
    async fn a_signature_is_bound_to_key_scheme_and_message() {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let other = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let scheme = SignatureScheme::EcdsaP256Sha256;
        let signature = SigningKey::sign(&key, scheme, b"message").await.unwrap();
        assert_eq!(
            key.public_key().verify(scheme, b"message", &signature),
            Ok(())
        );
        assert_eq!(
            key.public_key().verify(scheme, b"massage", &signature),
            Err(VerifySignatureError::Mismatch)
        );
        assert_eq!(
            other.public_key().verify(scheme, b"message", &signature),
            Err(VerifySignatureError::Mismatch)
        );
        assert_eq!(
            key.public_key()
                .verify(SignatureScheme::RsaPssSha256, b"message", &signature),
            Err(VerifySignatureError::Unsupported)
        );
    }
}
