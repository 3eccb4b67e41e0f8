//! The server's half.

use finial_runtime::fs::read_text;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use finial_pki::key::KeyAlgorithm;
use finial_pki::x509::pop::verify_client_chain;
use finial_plugin::context::{BundleLookup, PluginContext};
use finial_plugin::error::{AttestError, PluginError};
use finial_plugin::node_attestor::{Challenger, NodeAttestation, ServerNodeAttestor};
use finial_runtime::clock::SharedClock;
use rand::RngCore as _;
use serde::Deserialize;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::pem;
use spiffe_types::selector::{Selector, SelectorSet};

use super::NAME;
use super::certificate::{Leaf, fingerprint};
use super::wire::{
    AttestationData, Base64, Challenge, NONCE_BYTES, NonceChallenge, Response, combined,
    signature_der,
};
use crate::node_attestor::path_template::PathTemplate;

/// The settings, by the names that configuration files use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ServerSettings {
    /// `external_pki` (the default) or `spiffe`.
    pub mode: String,
    /// In mode `spiffe`, the path that SVIDs must begin with; the default is `/spire-exchange/`.
    pub spiffe_prefix: Option<String>,
    /// A PEM file of roots.
    pub ca_bundle_path: String,
    /// Several PEM files of roots.
    pub ca_bundle_paths: Vec<String>,
    /// The path of agents below `/spire/agent`.
    pub agent_path_template: String,
    /// How many certificates may follow the leaf; the default is 4.
    pub max_intermediates: Option<i64>,
    /// The longest RSA key, in bits; the default is 8192.
    pub max_rsa_key_size: Option<i64>,
    /// Not supported: must be false.
    pub verify_client_ip: bool,
}

/// Where belief comes from.
#[derive(Debug)]
enum Mode {
    ExternalPki {
        roots: Vec<Bytes>,
    },
    Spiffe {
        bundle: BundleLookup,
        prefix: String,
    },
}

/// Attests agents by the certificates they hold keys of.
#[derive(Debug)]
pub struct X509PopServer {
    trust_domain: TrustDomain,
    clock: SharedClock,
    mode: Mode,
    path: PathTemplate,
    max_intermediates: usize,
    max_rsa_key_bits: usize,
}

impl X509PopServer {
    /// Checks the settings and reads the roots.
    pub fn new(context: &PluginContext, settings: &ServerSettings) -> Result<Self, PluginError> {
        let misconfigured = |message: &str| PluginError::misconfigured(message);
        let has_paths = !settings.ca_bundle_path.is_empty() || !settings.ca_bundle_paths.is_empty();
        let (mode, default_path) = match settings.mode.as_str() {
            "" | "external_pki" => {
                if !settings.ca_bundle_path.is_empty() && !settings.ca_bundle_paths.is_empty() {
                    return Err(misconfigured(
                        "only one of ca_bundle_path or ca_bundle_paths can be configured, not both",
                    ));
                }
                if !has_paths {
                    return Err(misconfigured(
                        "one of ca_bundle_path or ca_bundle_paths must be configured",
                    ));
                }
                let single = Some(&settings.ca_bundle_path).filter(|path| !path.is_empty());
                let mut roots = Vec::new();
                for path in single.into_iter().chain(&settings.ca_bundle_paths) {
                    roots.extend(load_roots(path)?);
                }
                (Mode::ExternalPki { roots }, DEFAULT_PATH)
            }
            "spiffe" => {
                if has_paths {
                    return Err(misconfigured(
                        "you can not use ca_bundle_path or ca_bundle_paths in spiffe mode",
                    ));
                }
                let mut prefix = settings
                    .spiffe_prefix
                    .clone()
                    .unwrap_or_else(|| "/spire-exchange/".to_owned());
                if !prefix.ends_with('/') {
                    prefix.push('/');
                }
                (
                    Mode::Spiffe {
                        bundle: context.own_bundle.clone(),
                        prefix,
                    },
                    DEFAULT_SPIFFE_PATH,
                )
            }
            _ => {
                return Err(misconfigured(
                    "mode can only be either spiffe or external_pki",
                ));
            }
        };
        let template =
            Some(settings.agent_path_template.as_str()).filter(|template| !template.is_empty());
        let template = template.unwrap_or(default_path);
        let path = PathTemplate::parse(template).map_err(|error| {
            misconfigured(&format!(
                "failed to parse agent svid template: {template:?}"
            ))
            .with_source(error)
        })?;
        let positive = |value: Option<i64>, default: usize, name: &str| match value {
            None => Ok(default),
            Some(value) => usize::try_from(value)
                .ok()
                .filter(|value| *value > 0)
                .ok_or_else(|| misconfigured(&format!("{name} must be greater than 0"))),
        };
        if settings.verify_client_ip {
            return Err(PluginError::unsupported(
                "verify_client_ip is not supported; remove it or set it to false, and restrict addresses at the network",
            ));
        }
        Ok(Self {
            trust_domain: context.trust_domain.clone(),
            clock: Arc::clone(&context.clock),
            mode,
            path,
            max_intermediates: positive(settings.max_intermediates, 4, "max_intermediates")?,
            max_rsa_key_bits: positive(settings.max_rsa_key_size, 8192, "max_rsa_key_size")?,
        })
    }

    /// Reads the payload into a chain that is not too much work, leaf first.
    fn read_chain(&self, payload: &[u8]) -> Result<(Leaf, Vec<Bytes>), AttestError> {
        if payload.is_empty() {
            return Err(AttestError::malformed("missing attestation payload"));
        }
        let data: AttestationData = serde_json::from_slice(payload).map_err(|error| {
            AttestError::malformed(format!("failed to unmarshal data: {error}"))
        })?;
        let chain = data
            .certificates
            .into_iter()
            .map(|der| Bytes::from(der.0))
            .collect::<Vec<_>>();
        let (leaf, intermediates) = chain
            .split_first()
            .ok_or_else(|| AttestError::malformed("no certificate to attest"))?;
        if intermediates.len() > self.max_intermediates {
            return Err(AttestError::malformed("too many intermediate certificates"));
        }
        let leaf = Leaf::parse(leaf).map_err(|error| {
            AttestError::malformed(format!("unable to parse leaf certificate: {error}"))
        })?;
        if leaf.exceeds(self.max_rsa_key_bits) {
            return Err(AttestError::malformed(
                "leaf certificate key size too large",
            ));
        }
        for (index, der) in intermediates.iter().enumerate() {
            let parsed = Leaf::parse(der).map_err(|error| {
                AttestError::malformed(format!(
                    "unable to parse intermediate certificate {index}: {error}"
                ))
            })?;
            if parsed.exceeds(self.max_rsa_key_bits) {
                return Err(AttestError::malformed(format!(
                    "intermediate certificate {index} key size too large"
                )));
            }
        }
        Ok((leaf, chain))
    }

    fn roots(&self) -> Vec<Bytes> {
        match &self.mode {
            Mode::ExternalPki { roots } => roots.clone(),
            Mode::Spiffe { bundle, .. } => {
                let Some(bundle) = bundle.find() else {
                    tracing::warn!(
                        "There is no trust bundle yet, and no agent can be attested by it"
                    );
                    return Vec::new();
                };
                bundle
                    .x509_authorities
                    .iter()
                    .map(|authority| authority.der().clone())
                    .collect()
            }
        }
    }

    /// Returns the SVID's path below the prefix; nothing outside of mode `spiffe`.
    fn svid_path<'a>(&self, leaf: &'a Leaf) -> Result<&'a str, AttestError> {
        let Mode::Spiffe { prefix, .. } = &self.mode else {
            return Ok("");
        };
        let path = leaf
            .uris
            .iter()
            .find_map(|uri| uri.strip_prefix("spiffe://"))
            .ok_or_else(|| AttestError::rejected("valid SVID x509 cert not found"))?;
        let path = path
            .find('/')
            .and_then(|start| path.get(start..))
            .unwrap_or("");
        path.strip_prefix(prefix.as_str())
            .ok_or_else(|| AttestError::rejected("x509 cert doesnt match SVID prefix"))
    }

    fn agent_id(
        &self,
        leaf: &Leaf,
        svid_path: &str,
        san_selectors: &BTreeMap<String, String>,
    ) -> Result<SpiffeId, AttestError> {
        let failed =
            |error: String| AttestError::internal(format!("failed to make spiffe id: {error}"));
        let data = leaf.template_data(self.trust_domain.as_str(), svid_path, san_selectors);
        let path = self
            .path
            .execute(&data)
            .map_err(|error| failed(error.to_string()))?;
        if !path.starts_with('/') {
            return Err(failed(format!(
                "invalid agent path suffix {path:?}: path must have a leading slash"
            )));
        }
        SpiffeId::from_path(&self.trust_domain, &format!("/spire/agent{path}"))
            .map_err(|error| failed(format!("invalid agent path suffix {path:?}: {error}")))
    }
}

#[async_trait]
impl ServerNodeAttestor for X509PopServer {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(
        &self,
        payload: &[u8],
        agent: &mut dyn Challenger,
    ) -> Result<NodeAttestation, AttestError> {
        let (leaf, chain) = self.read_chain(payload)?;
        let paths =
            verify_client_chain(&chain, &self.roots(), self.clock.now()).map_err(|error| {
                AttestError::rejected(format!("certificate verification failed: x509: {error}"))
            })?;

        let challenge = challenge_for(&leaf)?;
        let sent = serde_json::to_vec(&challenge).map_err(|error| {
            AttestError::internal(format!("unable to marshal challenge: {error}"))
        })?;
        let answer = agent.challenge(sent).await?;
        let response: Response = serde_json::from_slice(&answer).map_err(|error| {
            AttestError::malformed(format!("unable to unmarshal challenge response: {error}"))
        })?;
        verify_response(&leaf, &challenge, &response).map_err(|error| {
            AttestError::rejected(format!("challenge response verification failed: {error}"))
        })?;

        let svid_path = self.svid_path(&leaf)?;
        let san_selectors = leaf.san_selectors(self.trust_domain.as_str());
        let agent_id = self.agent_id(&leaf, svid_path, &san_selectors)?;
        Ok(NodeAttestation {
            agent_id,
            selectors: selectors(&leaf, &paths, &san_selectors)?,
            can_reattest: true,
        })
    }
}

fn load_roots(path: &str) -> Result<Vec<Bytes>, PluginError> {
    let failed = || format!("unable to load trust bundle {path:?}");
    let text =
        read_text(path).map_err(|error| PluginError::misconfigured(failed()).with_source(error))?;
    pem::decode_all(&text, pem::CERTIFICATE)
        .map_err(|error| PluginError::misconfigured(failed()).with_source(error))
}

fn challenge_for(leaf: &Leaf) -> Result<Challenge, AttestError> {
    let failed =
        |reason: &str| AttestError::internal(format!("unable to generate challenge: {reason}"));
    if !leaf.can_sign {
        return Err(failed("certificate not intended for digital signature use"));
    }
    let key = leaf
        .public_key
        .as_ref()
        .map_err(|error| failed(&error.to_string()))?;
    let mut nonce = vec![0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    let nonce = Some(NonceChallenge {
        nonce: Base64(nonce),
    });
    match key.algorithm() {
        KeyAlgorithm::Rsa { .. } => Ok(Challenge {
            rsa_signature: nonce,
            ecdsa_signature: None,
        }),
        KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::EcP521 => Ok(Challenge {
            rsa_signature: None,
            ecdsa_signature: nonce,
        }),
        KeyAlgorithm::Ed25519 => Err(failed("unsupported public key type ed25519.PublicKey")),
    }
}

fn verify_response(
    leaf: &Leaf,
    challenge: &Challenge,
    response: &Response,
) -> Result<(), &'static str> {
    let key = leaf
        .public_key
        .as_ref()
        .map_err(|_unusable| "unsupported public key")?;
    if let Some(challenge) = &challenge.rsa_signature {
        let response = response
            .rsa_signature
            .as_ref()
            .ok_or("expecting RSA response")?;
        let message = combined(&challenge.nonce, &response.nonce)?;
        return key
            .verify_possession(&message, &response.signature.0)
            .map_err(|_mismatch| "RSA signature verify failed");
    }
    let challenge = challenge
        .ecdsa_signature
        .as_ref()
        .ok_or("expecting ECDSA challenge")?;
    let response = response
        .ecdsa_signature
        .as_ref()
        .ok_or("expecting ECDSA response")?;
    let message = combined(&challenge.nonce, &response.nonce)?;
    let signature =
        signature_der(&response.r.0, &response.s.0).ok_or("ECDSA signature verify failed")?;
    key.verify_possession(&message, &signature)
        .map_err(|_mismatch| "ECDSA signature verify failed")
}

fn selectors(
    leaf: &Leaf,
    paths: &[Vec<Bytes>],
    san_selectors: &BTreeMap<String, String>,
) -> Result<SelectorSet, AttestError> {
    let common_name = Some(&leaf.common_name).filter(|name| !name.is_empty());
    let common_name = common_name.map(|name| format!("subject:cn:{name}"));
    let authorities = paths
        .iter()
        .flat_map(|path| path.iter().skip(1))
        .map(|der| format!("ca:fingerprint:{}", fingerprint(der)));
    let serial = format!("serialnumber:{}", leaf.serial_hex);
    let names = san_selectors
        .iter()
        .map(|(key, value)| format!("san:{key}:{value}"));
    common_name
        .into_iter()
        .chain(authorities)
        .chain(std::iter::once(serial))
        .chain(names)
        .map(|value| {
            Selector::new(NAME, &value).map_err(|error| {
                AttestError::internal(format!("invalid selector {value:?}")).with_source(error)
            })
        })
        .collect()
}

const DEFAULT_PATH: &str = "/{{ .PluginName }}/{{ .Fingerprint }}";
const DEFAULT_SPIFFE_PATH: &str = "/{{ .PluginName }}/{{ .SVIDPathTrimmed }}";
