//! Keys held in memory.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest::Digest;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair as _, RsaEncoding, RsaKeyPair};
use rustls::sign::Signer;
use rustls::{SignatureAlgorithm, SignatureScheme as TlsScheme};
use zeroize::Zeroizing;

use crate::key::{
    KeyAlgorithm, KeyKind, PublicKey, PublicKeyError, SignError, SignatureScheme, SigningKey,
};

/// A private key in this process, parsed once; clones share it.
#[derive(Clone)]
pub struct SoftwareKey {
    inner: Arc<Inner>,
}

struct Inner {
    public: PublicKey,
    pair: Pair,
    pkcs8: Zeroizing<Vec<u8>>,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareKeyError {
    /// The crypto library made none.
    #[error("failed to generate a {kind} key")]
    Generate {
        /// What was asked for.
        kind: KeyKind,
    },
    /// The bytes are no private key of a supported algorithm.
    #[error(
        "not a supported private key; use PKCS#8, PKCS#1 or SEC 1 DER of an ECDSA (P-256, P-384, P-521) or RSA (2048 to 8192 bits) key"
    )]
    Parse,
    /// The public half could not be read back.
    #[error("failed to derive the public key")]
    PublicKey {
        /// What was wrong with it.
        source: PublicKeyError,
    },
}

impl SoftwareKey {
    /// Makes a new key. RSA takes tens to hundreds of milliseconds.
    pub fn generate(kind: KeyKind) -> Result<Self, SoftwareKeyError> {
        let failed = |_| SoftwareKeyError::Generate { kind };
        let pair = match kind {
            KeyKind::EcP256 => Pair::Ec(
                EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)
                    .map_err(failed)?,
            ),
            KeyKind::EcP384 => Pair::Ec(
                EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)
                    .map_err(failed)?,
            ),
            KeyKind::Rsa2048 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?),
            KeyKind::Rsa4096 => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa4096).map_err(failed)?),
        };
        Self::new(pair)
    }

    /// Reads a PKCS#8 private key.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, SoftwareKeyError> {
        let pair = EC_ALGORITHMS
            .iter()
            .find_map(|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok().map(Pair::Ec))
            .or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(Pair::Rsa))
            .ok_or(SoftwareKeyError::Parse)?;
        Self::new(pair)
    }

    /// Reads a private key in PKCS#8, SEC 1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`) form.
    pub fn from_der(der: &[u8]) -> Result<Self, SoftwareKeyError> {
        if let Ok(key) = Self::from_pkcs8_der(der) {
            return Ok(key);
        }
        let pair = EC_ALGORITHMS
            .iter()
            .find_map(|algorithm| {
                EcdsaKeyPair::from_private_key_der(algorithm, der)
                    .ok()
                    .map(Pair::Ec)
            })
            .or_else(|| RsaKeyPair::from_der(der).ok().map(Pair::Rsa))
            .ok_or(SoftwareKeyError::Parse)?;
        Self::new(pair)
    }

    /// Returns the PKCS#8 encoding.
    pub fn pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        self.inner.pkcs8.clone()
    }

    /// Returns the kind, if the key is of one that can be configured.
    pub fn kind(&self) -> Option<KeyKind> {
        self.inner.public.kind()
    }

    /// Returns the public half.
    #[expect(
        clippy::same_name_method,
        reason = "whoever has the key itself needs no trait"
    )]
    pub fn public_key(&self) -> &PublicKey {
        &self.inner.public
    }

    /// Returns the key in the form that TLS takes; nothing is parsed again.
    pub fn to_rustls(&self) -> Arc<dyn rustls::sign::SigningKey> {
        Arc::new(TlsKey { key: self.clone() })
    }

    /// Signs without going through a future.
    pub fn sign_now(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match (scheme, &self.inner.pair, self.inner.public.algorithm()) {
            (SignatureScheme::EcdsaP256Sha256, Pair::Ec(pair), KeyAlgorithm::EcP256)
            | (SignatureScheme::EcdsaP384Sha384, Pair::Ec(pair), KeyAlgorithm::EcP384) => {
                sign_ec(pair, message)
            }
            (SignatureScheme::RsaPkcs1Sha256, Pair::Rsa(pair), _) => {
                sign_rsa(pair, &signature::RSA_PKCS1_SHA256, message)
            }
            (SignatureScheme::RsaPssSha256, Pair::Rsa(pair), _) => {
                sign_rsa(pair, &signature::RSA_PSS_SHA256, message)
            }
            _ => Err(SignError::UnsupportedScheme { scheme }),
        }
    }

    /// Proves possession over `message`: ECDSA with SHA-256 whatever the curve, or RSA-PSS with SHA-256.
    ///
    /// The counterpart of [`PublicKey::verify_possession`].
    pub fn sign_possession(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.inner.pair {
            Pair::Ec(pair) => match self.inner.public.algorithm() {
                KeyAlgorithm::EcP256 => sign_ec(pair, message),
                KeyAlgorithm::EcP384 => sign_p384_sha256(pair, message),
                _ => {
                    let algorithm = &signature::ECDSA_P521_SHA256_ASN1_SIGNING;
                    sign_ec(
                        &EcdsaKeyPair::from_pkcs8(algorithm, &self.inner.pkcs8).map_err(failed)?,
                        message,
                    )
                }
            },
            Pair::Rsa(pair) => sign_rsa(pair, &signature::RSA_PSS_SHA256, message),
        }
    }

    fn new(pair: Pair) -> Result<Self, SoftwareKeyError> {
        let (spki, pkcs8) = match &pair {
            Pair::Ec(pair) => (
                pair.public_key()
                    .as_der()
                    .map_err(|_unspecified| SoftwareKeyError::Parse)?,
                Zeroizing::new(
                    pair.to_pkcs8v1()
                        .map_err(|_unspecified| SoftwareKeyError::Parse)?
                        .as_ref()
                        .to_vec(),
                ),
            ),
            Pair::Rsa(pair) => {
                let pkcs8: Pkcs8V1Der<'static> =
                    AsDer::as_der(pair).map_err(|_unspecified| SoftwareKeyError::Parse)?;
                (
                    pair.public_key()
                        .as_der()
                        .map_err(|_unspecified| SoftwareKeyError::Parse)?,
                    Zeroizing::new(pkcs8.as_ref().to_vec()),
                )
            }
        };
        let public = PublicKey::from_spki_der(spki.as_ref())
            .map_err(|source| SoftwareKeyError::PublicKey { source })?;
        Ok(Self {
            inner: Arc::new(Inner {
                public,
                pair,
                pkcs8,
            }),
        })
    }
}

impl fmt::Debug for SoftwareKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareKey")
            .field("public", &self.inner.public)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SigningKey for SoftwareKey {
    fn public_key(&self) -> &PublicKey {
        &self.inner.public
    }

    async fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.sign_now(scheme, message)
    }
}

#[derive(Debug)]
struct TlsKey {
    key: SoftwareKey,
}

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[TlsScheme]) -> Option<Box<dyn Signer>> {
        let ours: &[TlsScheme] = match self.key.inner.public.algorithm() {
            KeyAlgorithm::EcP256 => &[TlsScheme::ECDSA_NISTP256_SHA256],
            KeyAlgorithm::EcP384 => &[TlsScheme::ECDSA_NISTP384_SHA384],
            KeyAlgorithm::EcP521 => &[TlsScheme::ECDSA_NISTP521_SHA512],
            KeyAlgorithm::Rsa { .. } => RSA_TLS_SCHEMES,
            KeyAlgorithm::Ed25519 => &[],
        };
        let scheme = ours
            .iter()
            .copied()
            .find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TlsSigner {
            key: self.key.clone(),
            scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.key.inner.pair {
            Pair::Ec(_) => SignatureAlgorithm::ECDSA,
            Pair::Rsa(_) => SignatureAlgorithm::RSA,
        }
    }
}

#[derive(Debug)]
struct TlsSigner {
    key: SoftwareKey,
    scheme: TlsScheme,
}

impl Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = match &self.key.inner.pair {
            Pair::Ec(pair) => sign_ec(pair, message),
            Pair::Rsa(pair) => {
                let encoding: &'static dyn RsaEncoding = match self.scheme {
                    TlsScheme::RSA_PSS_SHA512 => &signature::RSA_PSS_SHA512,
                    TlsScheme::RSA_PSS_SHA384 => &signature::RSA_PSS_SHA384,
                    TlsScheme::RSA_PSS_SHA256 => &signature::RSA_PSS_SHA256,
                    TlsScheme::RSA_PKCS1_SHA512 => &signature::RSA_PKCS1_SHA512,
                    TlsScheme::RSA_PKCS1_SHA384 => &signature::RSA_PKCS1_SHA384,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                sign_rsa(pair, encoding, message)
            }
        };
        signed.map_err(|_failed| rustls::Error::General("signing failed".to_owned()))
    }

    fn scheme(&self) -> TlsScheme {
        self.scheme
    }
}

const RSA_TLS_SCHEMES: &[TlsScheme] = &[
    TlsScheme::RSA_PSS_SHA256,
    TlsScheme::RSA_PSS_SHA384,
    TlsScheme::RSA_PSS_SHA512,
    TlsScheme::RSA_PKCS1_SHA256,
    TlsScheme::RSA_PKCS1_SHA384,
    TlsScheme::RSA_PKCS1_SHA512,
];

static EC_ALGORITHMS: [&signature::EcdsaSigningAlgorithm; 3] = [
    &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
    &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
    &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
];

fn sign_ec(pair: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, SignError> {
    Ok(pair
        .sign(&SystemRandom::new(), message)
        .map_err(failed)?
        .as_ref()
        .to_vec())
}

/// Signs with P-384 over SHA-256, a pair that the library does not offer.
///
/// ECDSA takes a digest as a number, so a SHA-256 with zeros before it, in the place of a SHA-384, is the same message.
fn sign_p384_sha256(pair: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, SignError> {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message);
    let padded = [&[0; 16], digest.as_ref()].concat();
    let digest = Digest::import_less_safe(&padded, &aws_lc_rs::digest::SHA384).map_err(failed)?;
    Ok(pair.sign_digest(&digest).map_err(failed)?.as_ref().to_vec())
}

fn sign_rsa(
    pair: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    message: &[u8],
) -> Result<Vec<u8>, SignError> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(encoding, &SystemRandom::new(), message, &mut signature)
        .map_err(failed)?;
    Ok(signature)
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> SignError {
    SignError::Failed {
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_pkcs8_and_signs_the_same_way() {
        for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
            let key = SoftwareKey::generate(kind).unwrap();
            let read = SoftwareKey::from_pkcs8_der(&key.pkcs8_der()).unwrap();
            assert_eq!(read.public_key(), key.public_key());
            assert_eq!(read.kind(), Some(kind));
            let scheme = SignatureScheme::default_for(read.public_key()).unwrap();
            let signature = read.sign_now(scheme, b"m").unwrap();
            assert_eq!(key.public_key().verify(scheme, b"m", &signature), Ok(()));
        }
    }

    #[test]
    fn possession_is_proven_with_sha256_on_every_curve() {
        for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
            let key = SoftwareKey::generate(kind).unwrap();
            let proof = key.sign_possession(b"m").unwrap();
            assert_eq!(key.public_key().verify_possession(b"m", &proof), Ok(()));
        }
    }

    #[test]
    fn debug_output_shows_no_private_key() {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let shown = format!("{key:?}");
        assert!(
            shown.contains("subject_key_id") && !shown.contains("pkcs8"),
            "{shown}"
        );
    }
}
