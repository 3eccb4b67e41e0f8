//! Certificate signing requests.
//!
//! A [`Csr`] value exists only if its self-signature held: it *is* proof of possession of its public key.

use bytes::Bytes;
use rcgen::{CertificateParams, DistinguishedName, SanType};
use spiffe_types::entry::DnsName;
use spiffe_types::id::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::der;
use crate::key::{PublicKey, PublicKeyError, SignError, SignatureScheme, SigningKey};
use crate::software::SoftwareKey;
use crate::x509::SubjectName;
use crate::x509::encode::{EncodeError, Unsigned, ia5};

/// A request whose signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    public_key: PublicKey,
    subject: Bytes,
    uri_sans: Vec<String>,
    dns_sans: Vec<String>,
}

/// Why bytes are no usable request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Not a PKCS#10 request.
    #[error("malformed CSR: {reason}")]
    Malformed {
        /// What was wrong.
        reason: String,
    },
    /// The key in it is of no use here.
    #[error("CSR holds an unusable key")]
    PublicKey {
        /// What was wrong with it.
        source: PublicKeyError,
    },
    /// The sender does not hold the key it asks a certificate for.
    #[error("CSR signature verification failed")]
    BadSignature,
}

impl Csr {
    /// Reads a DER request and checks that it is signed by the key it names.
    pub fn parse(bytes: &[u8]) -> Result<Self, CsrError> {
        let (rest, request) = X509CertificationRequest::from_der(bytes)
            .map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("trailing bytes"));
        }
        let info = &request.certification_request_info;
        let public_key = PublicKey::from_spki_der(info.subject_pki.raw)
            .map_err(|source| CsrError::PublicKey { source })?;
        public_key
            .verify_x509(
                &request.signature_algorithm,
                info.raw,
                &request.signature_value.data,
            )
            .map_err(|_mismatch| CsrError::BadSignature)?;

        let mut csr = Self {
            public_key,
            subject: Bytes::copy_from_slice(info.subject.as_raw()),
            uri_sans: Vec::new(),
            dns_sans: Vec::new(),
        };
        for attribute in info.iter_attributes() {
            let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute()
            else {
                continue;
            };
            for extension in &requested.extensions {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectAlternativeName(names) => {
                        csr.take_names(&names.general_names)?;
                    }
                    ParsedExtension::ParseError { error } => {
                        return Err(malformed(error.to_string()));
                    }
                    _ => {}
                }
            }
        }
        Ok(csr)
    }

    /// Returns the key that the sender has proven to hold.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Returns the URI names asked for, in order.
    pub fn uri_sans(&self) -> &[String] {
        &self.uri_sans
    }

    /// Returns the DNS names asked for, in order.
    pub fn dns_sans(&self) -> &[String] {
        &self.dns_sans
    }

    /// Returns the subject asked for, as DER.
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    fn take_names(&mut self, names: &[GeneralName<'_>]) -> Result<(), CsrError> {
        for name in names {
            match name {
                GeneralName::URI(uri) => self.uri_sans.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => self.dns_sans.push((*dns).to_owned()),
                GeneralName::Invalid(..) => {
                    return Err(malformed("invalid subject alternative name"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Why no request was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateCsrError {
    /// The request could not be encoded.
    #[error("failed to encode CSR")]
    Encode {
        /// What was in the way.
        source: EncodeError,
    },
    /// The key did not sign it.
    #[error("failed to sign CSR")]
    Sign {
        /// What the key holder said.
        source: SignError,
    },
}

/// Makes a request for the key, with subject `C=US, O=SPIRE` and the given names.
pub async fn create(
    key: &dyn SigningKey,
    uri: Option<&SpiffeId>,
    dns: &[DnsName],
) -> Result<Vec<u8>, CreateCsrError> {
    let unsigned = prepare(key.public_key(), uri, dns)?;
    let signature = key
        .sign(unsigned.scheme, &unsigned.message)
        .await
        .map_err(|source| CreateCsrError::Sign { source })?;
    Ok(unsigned.with_signature(&signature))
}

/// Makes the same request as [`create`] without going through a future.
pub fn create_with_software(
    key: &SoftwareKey,
    uri: Option<&SpiffeId>,
    dns: &[DnsName],
) -> Result<Vec<u8>, CreateCsrError> {
    let unsigned = prepare(key.public_key(), uri, dns)?;
    let signature = key
        .sign_now(unsigned.scheme, &unsigned.message)
        .map_err(|source| CreateCsrError::Sign { source })?;
    Ok(unsigned.with_signature(&signature))
}

struct UnsignedCsr {
    message: Vec<u8>,
    algorithm: Vec<u8>,
    scheme: SignatureScheme,
}

impl UnsignedCsr {
    fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        let signature = der::encode(der::BIT_STRING, &[&[0], signature]);
        der::encode(der::SEQUENCE, &[&self.message, &self.algorithm, &signature])
    }
}

fn prepare(
    key: &PublicKey,
    uri: Option<&SpiffeId>,
    dns: &[DnsName],
) -> Result<UnsignedCsr, CreateCsrError> {
    let encode = |source| CreateCsrError::Encode { source };
    let scheme =
        SignatureScheme::default_for(key).ok_or_else(|| encode(EncodeError::UnsupportedKey))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for name in dns {
        params
            .subject_alt_names
            .push(SanType::DnsName(ia5(name.as_str()).map_err(encode)?));
    }
    if let Some(id) = uri {
        params
            .subject_alt_names
            .push(SanType::URI(ia5(id.as_str()).map_err(encode)?));
    }
    let request = params.serialize_request(&Unsigned(key)).map_err(|error| {
        encode(EncodeError::Rcgen {
            reason: error.to_string(),
        })
    })?;
    let malformed = |_| encode(EncodeError::Malformed);
    let outer = der::read_only(request.der()).map_err(malformed)?;
    let (info, rest) = der::read(outer.content).map_err(malformed)?;
    let (algorithm, _) = der::read(rest).map_err(malformed)?;
    let [version, _subject, spki, attributes @ ..] =
        &*der::elements(info.content).map_err(malformed)?
    else {
        return Err(encode(EncodeError::Malformed));
    };
    let subject = SubjectName::svid_default().to_der();
    let attributes = attributes
        .iter()
        .flat_map(|element| element.raw)
        .copied()
        .collect::<Vec<_>>();
    let message = der::encode(
        der::SEQUENCE,
        &[version.raw, &subject, spki.raw, &attributes],
    );
    Ok(UnsignedCsr {
        message,
        algorithm: algorithm.raw.to_vec(),
        scheme,
    })
}

fn malformed(reason: impl Into<String>) -> CsrError {
    CsrError::Malformed {
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyKind;

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://example.org/web").unwrap()
    }

    #[tokio::test]
    async fn a_request_reads_back_with_its_names_key_and_subject() {
        for kind in [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048] {
            let key = SoftwareKey::generate(kind).unwrap();
            let dns =
                ["web.example.org", "www.example.org"].map(|name| name.parse::<DnsName>().unwrap());
            let der = create(&key, Some(&id()), &dns).await.unwrap();
            let csr = Csr::parse(&der).unwrap();
            assert_eq!(csr.public_key(), key.public_key());
            assert_eq!(csr.uri_sans(), ["spiffe://example.org/web"]);
            assert_eq!(csr.dns_sans(), ["web.example.org", "www.example.org"]);
            assert_eq!(csr.subject_der(), SubjectName::svid_default().to_der());
        }
    }

    #[test]
    fn a_request_without_names_is_fine() {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let csr = Csr::parse(&create_with_software(&key, None, &[]).unwrap()).unwrap();
        assert!(csr.uri_sans().is_empty() && csr.dns_sans().is_empty());
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let other = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let unsigned = prepare(other.public_key(), Some(&id()), &[]).unwrap();
        let forged =
            unsigned.with_signature(&key.sign_now(unsigned.scheme, &unsigned.message).unwrap());
        assert_eq!(Csr::parse(&forged), Err(CsrError::BadSignature));
    }

    #[test]
    fn every_truncation_is_refused_without_a_panic() {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let der = create_with_software(&key, Some(&id()), &[]).unwrap();
        for length in 0..der.len() {
            assert!(Csr::parse(&der[..length]).is_err());
        }
        let mut longer = der;
        longer.push(0);
        assert!(matches!(
            Csr::parse(&longer),
            Err(CsrError::Malformed { .. })
        ));
    }
}
