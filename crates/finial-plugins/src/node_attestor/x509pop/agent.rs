//! The agent's half.

use finial_runtime::fs::read_text;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use finial_client::endpoint::WorkloadEndpoint;
use finial_client::workload::watch_x509;
use finial_pki::key::{KeyAlgorithm, PublicKey};
use finial_pki::software::SoftwareKey;
use finial_plugin::error::{AttestError, PluginError};
use finial_plugin::node_attestor::AgentNodeAttestor;
use rand::RngCore as _;
use serde::Deserialize;
use spiffe_types::pem;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::NAME;
use super::wire::{
    AttestationData, Base64, Challenge, EcdsaResponse, NONCE_BYTES, Response, RsaResponse,
    combined, signature_parts,
};

/// The settings, by the names that configuration files use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct AgentSettings {
    /// PEM file of the private key (PKCS#8, PKCS#1 or SEC 1).
    pub private_key_path: String,
    /// PEM file of the certificate, which other certificates may follow.
    pub certificate_path: String,
    /// PEM file of more intermediate certificates.
    pub intermediates_path: String,
    /// Address of a Workload API whose SVID is presented instead of files.
    pub spiffe_endpoint_socket: String,
}

/// Presents a certificate and proves that its key is here.
#[derive(Debug)]
pub struct X509PopAgent {
    source: Source,
    /// The key that belongs to the payload sent last: files may be renewed between the two steps.
    presented: Mutex<Option<SoftwareKey>>,
}

/// Where the certificate and its key come from. Both are read anew for each attestation.
#[derive(Debug)]
enum Source {
    Files(Files),
    WorkloadApi(WorkloadEndpoint),
}

#[derive(Debug)]
struct Files {
    key: String,
    certificate: String,
    intermediates: String,
}

struct Identity {
    key: SoftwareKey,
    chain: Vec<Base64>,
}

impl X509PopAgent {
    /// Checks the settings and that what they point at makes sense. The files are read again for each attestation.
    pub fn new(settings: AgentSettings) -> Result<Self, PluginError> {
        if !settings.spiffe_endpoint_socket.is_empty() {
            let endpoint = endpoint(&settings.spiffe_endpoint_socket)?;
            return Ok(Self {
                source: Source::WorkloadApi(endpoint),
                presented: Mutex::new(None),
            });
        }
        if settings.private_key_path.is_empty() {
            return Err(PluginError::misconfigured("private_key_path is required"));
        }
        if settings.certificate_path.is_empty() {
            return Err(PluginError::misconfigured("certificate_path is required"));
        }
        let files = Files {
            key: settings.private_key_path,
            certificate: settings.certificate_path,
            intermediates: settings.intermediates_path,
        };
        files.load()?;
        Ok(Self {
            source: Source::Files(files),
            presented: Mutex::new(None),
        })
    }

    async fn load(&self) -> Result<Identity, PluginError> {
        match &self.source {
            Source::Files(files) => files.load(),
            Source::WorkloadApi(endpoint) => fetch(endpoint).await,
        }
    }
}

impl Files {
    fn load(&self) -> Result<Identity, PluginError> {
        let keypair = |reason: String| {
            PluginError::misconfigured(format!("unable to load keypair: {reason}"))
        };
        let certificates = read_certificates(&self.certificate).map_err(keypair)?;
        let key = read_key(&self.key).map_err(keypair)?;
        let leaf = certificates
            .first()
            .and_then(|der| X509Certificate::from_der(&der.0).ok());
        let leaf = leaf
            .and_then(|(_, leaf)| PublicKey::from_spki_der(leaf.public_key().raw).ok())
            .ok_or_else(|| {
                keypair(format!(
                    "{:?} begins with no usable certificate",
                    self.certificate
                ))
            })?;
        if leaf != *key.public_key() {
            return Err(keypair("private key does not match public key".to_owned()));
        }
        let mut chain = certificates;
        if !self.intermediates.trim().is_empty() {
            let more = read_certificates(&self.intermediates).map_err(|reason| {
                PluginError::misconfigured(format!(
                    "unable to load intermediate certificates: {reason}"
                ))
            })?;
            chain.extend(more);
        }
        Ok(Identity { key, chain })
    }
}

#[async_trait]
impl AgentNodeAttestor for X509PopAgent {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, AttestError> {
        let identity = self.load().await?;
        *self
            .presented
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(identity.key);
        serde_json::to_vec(&AttestationData {
            certificates: identity.chain,
        })
        .map_err(|error| {
            AttestError::internal(format!("unable to marshal attestation data: {error}"))
        })
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        let challenge: Challenge = serde_json::from_slice(challenge).map_err(|error| {
            AttestError::internal(format!("unable to unmarshal challenge: {error}"))
        })?;
        let presented = self
            .presented
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let key = match presented {
            Some(key) => key,
            None => self.load().await?.key,
        };
        let response = answer(&key, &challenge).map_err(|error| {
            AttestError::internal(format!("failed to calculate challenge response: {error}"))
        })?;
        serde_json::to_vec(&response).map_err(|error| {
            AttestError::internal(format!("unable to marshal challenge response: {error}"))
        })
    }
}

/// An address, or as SPIRE takes it too, the path of a socket.
fn endpoint(text: &str) -> Result<WorkloadEndpoint, PluginError> {
    let parsed = if text.starts_with('/') {
        WorkloadEndpoint::parse(&format!("unix://{text}"))
    } else {
        WorkloadEndpoint::parse(text)
    };
    parsed.map_err(|error| {
        PluginError::misconfigured(format!("invalid spiffe_endpoint_socket {text:?}"))
            .with_source(error)
    })
}

async fn fetch(endpoint: &WorkloadEndpoint) -> Result<Identity, PluginError> {
    let failed = |reason: String| {
        PluginError::unavailable(format!("unable to fetch SVID from workload API: {reason}"))
    };
    let mut watch = watch_x509(endpoint.channel());
    let context = tokio::time::timeout(FETCH_TIMEOUT, watch.next())
        .await
        .map_err(|_elapsed| failed(format!("{endpoint} did not answer in time")))?
        .map_err(|error| failed(error.to_string()))?;
    let identity = context
        .identities
        .into_iter()
        .next()
        .ok_or_else(|| failed("it has no identity for the agent".to_owned()))?;
    let key = SoftwareKey::from_pkcs8_der(identity.private_key.pkcs8_der())
        .map_err(|error| failed(error.to_string()))?;
    let chain = identity.svid.chain().iter();
    Ok(Identity {
        key,
        chain: chain.map(|der| Base64(der.to_vec())).collect(),
    })
}

fn answer(key: &SoftwareKey, challenge: &Challenge) -> Result<Response, String> {
    let mut nonce = vec![0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    let nonce = Base64(nonce);
    let sign = |challenge: &Base64| {
        let message = combined(challenge, &nonce)?;
        key.sign_possession(&message)
            .map_err(|error| error.to_string())
    };
    if let KeyAlgorithm::Rsa { .. } = key.public_key().algorithm() {
        let challenge = challenge
            .rsa_signature
            .as_ref()
            .ok_or("expecting RSA challenge")?;
        let signature = Base64(sign(&challenge.nonce)?);
        return Ok(Response {
            rsa_signature: Some(RsaResponse { nonce, signature }),
            ecdsa_signature: None,
        });
    }
    let challenge = challenge
        .ecdsa_signature
        .as_ref()
        .ok_or("expecting ECDSA challenge")?;
    let (r, s) =
        signature_parts(&sign(&challenge.nonce)?).ok_or("signature has an unexpected form")?;
    let (r, s) = (Base64(r), Base64(s));
    Ok(Response {
        rsa_signature: None,
        ecdsa_signature: Some(EcdsaResponse { nonce, r, s }),
    })
}

fn read_certificates(path: &str) -> Result<Vec<Base64>, String> {
    let text = read_text(path).map_err(|error| error.to_string())?;
    let certificates =
        pem::decode_all(&text, pem::CERTIFICATE).map_err(|error| format!("{path:?}: {error}"))?;
    Ok(certificates
        .into_iter()
        .map(|der| Base64(der.to_vec()))
        .collect())
}

fn read_key(path: &str) -> Result<SoftwareKey, String> {
    let text = Zeroizing::new(read_text(path).map_err(|error| error.to_string())?);
    let der = [pem::PRIVATE_KEY, "EC PRIVATE KEY", "RSA PRIVATE KEY"]
        .iter()
        .find_map(|label| {
            pem::decode_all(&text, label)
                .ok()
                .and_then(|found| found.into_iter().next())
        })
        .ok_or_else(|| format!("{path:?}: no PEM block of type \"PRIVATE KEY\""))?;
    SoftwareKey::from_der(&der).map_err(|error| format!("{path:?}: {error}"))
}

/// The agent behind the socket may be starting too.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
