//! One fake per trait, scripted by values and recording what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use finial_pki::key::{KeyKind, SigningKey};
use finial_pki::software::SoftwareKey;
use spiffe_types::bundle::Bundle;
use spiffe_types::selector::Selector;

use crate::bundle_publisher::BundlePublisher;
use crate::error::{AttestError, PluginError};
use crate::key_manager::{KeyId, KeyManager};
use crate::node_attestor::{AgentNodeAttestor, Challenger, NodeAttestation, ServerNodeAttestor};
use crate::notifier::Notifier;
use crate::workload::Workload;
use crate::workload_attestor::WorkloadAttestor;

/// Keeps keys in a map; [`fail_next`](Self::fail_next) makes the next generation fail.
#[derive(Debug, Default)]
pub struct FakeKeyManager {
    keys: Mutex<BTreeMap<KeyId, SoftwareKey>>,
    failure: Mutex<Option<PluginError>>,
}

impl FakeKeyManager {
    /// Makes the next [`generate`](KeyManager::generate) fail with `error`.
    pub fn fail_next(&self, error: PluginError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

#[async_trait]
impl KeyManager for FakeKeyManager {
    async fn generate(
        &self,
        id: &KeyId,
        kind: KeyKind,
    ) -> Result<Arc<dyn SigningKey>, PluginError> {
        if let Some(error) = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            return Err(error);
        }
        let key = SoftwareKey::generate(kind)
            .map_err(|error| PluginError::internal("failed to generate key").with_source(error))?;
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), key.clone());
        Ok(Arc::new(key))
    }

    async fn find(&self, id: &KeyId) -> Result<Option<Arc<dyn SigningKey>>, PluginError> {
        Ok(self
            .exportable(id)?
            .map(|key| Arc::new(key) as Arc<dyn SigningKey>))
    }

    async fn list(&self) -> Result<Vec<(KeyId, Arc<dyn SigningKey>)>, PluginError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys
            .iter()
            .map(|(id, key)| (id.clone(), Arc::new(key.clone()) as Arc<dyn SigningKey>))
            .collect())
    }

    fn exportable(&self, id: &KeyId) -> Result<Option<SoftwareKey>, PluginError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.get(id).cloned())
    }
}

/// Accepts one payload, after an optional challenge.
#[derive(Debug)]
pub struct FakeServerNodeAttestor {
    /// The attestation type.
    pub name: String,
    /// The only payload that is accepted.
    pub payload: Vec<u8>,
    /// Asked of the agent, with the only response that is accepted.
    pub challenge: Option<(Vec<u8>, Vec<u8>)>,
    /// What an accepted agent gets.
    pub attestation: NodeAttestation,
}

#[async_trait]
impl ServerNodeAttestor for FakeServerNodeAttestor {
    fn name(&self) -> &str {
        &self.name
    }

    async fn attest(
        &self,
        payload: &[u8],
        agent: &mut dyn Challenger,
    ) -> Result<NodeAttestation, AttestError> {
        if payload != self.payload {
            return Err(AttestError::malformed("unexpected payload"));
        }
        if let Some((challenge, expected)) = &self.challenge
            && &agent.challenge(challenge.clone()).await? != expected
        {
            return Err(AttestError::rejected("challenge failed"));
        }
        Ok(self.attestation.clone())
    }
}

/// Answers every challenge from a map.
#[derive(Debug, Default)]
pub struct FakeAgentNodeAttestor {
    /// The attestation type.
    pub name: String,
    /// What opens an attestation.
    pub payload: Vec<u8>,
    /// The response to each known challenge.
    pub responses: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[async_trait]
impl AgentNodeAttestor for FakeAgentNodeAttestor {
    fn name(&self) -> &str {
        &self.name
    }

    async fn payload(&self) -> Result<Vec<u8>, AttestError> {
        Ok(self.payload.clone())
    }

    async fn respond(&self, challenge: &[u8]) -> Result<Vec<u8>, AttestError> {
        self.responses
            .get(challenge)
            .cloned()
            .ok_or_else(|| AttestError::malformed("unexpected challenge"))
    }
}

/// A challenger that plays back responses and records the challenges.
#[derive(Debug, Default)]
pub struct FakeChallenger {
    /// Handed out in order; when none is left, the agent has hung up.
    pub responses: VecDeque<Vec<u8>>,
    /// What was asked.
    pub challenges: Vec<Vec<u8>>,
}

#[async_trait]
impl Challenger for FakeChallenger {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, AttestError> {
        self.challenges.push(challenge);
        self.responses
            .pop_front()
            .ok_or_else(|| AttestError::unavailable("agent has hung up"))
    }
}

/// Gives every workload the selectors of its process id.
#[derive(Debug, Default)]
pub struct FakeWorkloadAttestor {
    /// The attestor's name.
    pub name: String,
    selectors: Mutex<BTreeMap<i32, Vec<Selector>>>,
}

impl FakeWorkloadAttestor {
    /// Creates an attestor that knows no workload.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            selectors: Mutex::default(),
        }
    }

    /// Sets the selectors of a process.
    pub fn set(&self, pid: i32, selectors: Vec<Selector>) {
        self.selectors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid, selectors);
    }
}

#[async_trait]
impl WorkloadAttestor for FakeWorkloadAttestor {
    fn name(&self) -> &str {
        &self.name
    }

    async fn attest(&self, workload: &Workload) -> Result<Vec<Selector>, AttestError> {
        let selectors = self
            .selectors
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(selectors.get(&workload.pid()).cloned().unwrap_or_default())
    }
}

/// Records the bundles it is given, as publisher and as notifier.
#[derive(Debug, Default)]
pub struct FakeBundleListener {
    bundles: Mutex<Vec<Bundle>>,
}

impl FakeBundleListener {
    /// Returns the bundles seen so far, oldest first.
    pub fn bundles(&self) -> Vec<Bundle> {
        self.bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn record(&self, bundle: &Bundle) {
        self.bundles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bundle.clone());
    }
}

#[async_trait]
impl BundlePublisher for FakeBundleListener {
    async fn publish(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.record(bundle);
        Ok(())
    }
}

#[async_trait]
impl Notifier for FakeBundleListener {
    async fn bundle_loaded(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.record(bundle);
        Ok(())
    }

    async fn bundle_updated(&self, bundle: &Bundle) -> Result<(), PluginError> {
        self.record(bundle);
        Ok(())
    }
}
