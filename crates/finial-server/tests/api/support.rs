//! A server to talk to, and agents that talk to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use finial_client::connect;
use finial_pki::csr;
use finial_pki::key::KeyKind;
use finial_pki::software::SoftwareKey;
use finial_pki::tls::{
    BundleStore, ServerTrust, SvidSlot, bootstrap_config, client_config, install_provider,
};
use finial_plugin::node_attestor::{Challenger, NodeAttestation, ServerNodeAttestor};
use finial_plugin::{AttestError, PluginContext, PluginError};
use finial_proto::convert;
use finial_proto::pb::spire::api::server::agent::v1 as agent_pb;
use finial_proto::pb::spire::api::server::agent::v1::agent_client::AgentClient;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_proto::pb::spire::api::server::entry::v1 as entry_pb;
use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use finial_proto::pb::spire::api::server::svid::v1::svid_client::SvidClient;
use finial_proto::pb::spire::api::types;
use finial_runtime::config::{ConfigFile, PluginConfig};
use finial_server::config::{Config, Flags};
use finial_server::server::Server;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::selector::{Selector, SelectorSet};
use spiffe_types::svid::x509::X509Svid;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

/// A running server. Dropping it stops it without ceremony.
pub(crate) struct TestServer {
    pub(crate) addr: SocketAddr,
    pub(crate) socket: PathBuf,
    stop: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
    _dir: TempDir,
}

/// An attested agent.
pub(crate) struct TestAgent {
    pub(crate) id: SpiffeId,
    pub(crate) key: SoftwareKey,
    pub(crate) svid: X509Svid,
    pub(crate) channel: Channel,
}

/// How a server differs from the usual one.
#[derive(Default)]
pub(crate) struct Settings<'a> {
    /// Lines for the `server` section.
    pub(crate) lines: &'a str,
    /// Sections beside it.
    pub(crate) sections: &'a str,
    /// Whether the rate limits are on.
    pub(crate) limited: bool,
    /// Where the data lies, if it is to outlive the server.
    pub(crate) dir: Option<&'a Path>,
    /// Another trust domain than `example.org`.
    pub(crate) trust_domain: Option<&'a str>,
}

impl Settings<'_> {
    fn config(&self, root: &Path) -> Config {
        let root = root.display();
        let Settings {
            lines,
            sections,
            limited,
            trust_domain,
            dir: _,
        } = self;
        let trust_domain = trust_domain.unwrap_or("example.org");
        let text = format!(
            r#"
            server {{
                bind_address = "127.0.0.1"
                trust_domain = "{trust_domain}"
                data_dir = "{root}/data"
                socket_path = "{root}/private/api.sock"
                ratelimit {{
                    attestation = {limited}
                    signing = {limited}
                }}
                {lines}
            }}
            plugins {{
                DataStore "sql" {{
                    plugin_data {{
                        database_type = "sqlite3"
                        connection_string = "{root}/data/datastore.sqlite3"
                    }}
                }}
                KeyManager "disk" {{ plugin_data {{ keys_path = "{root}/data/keys.json" }} }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                NodeAttestor "fake" {{ plugin_data {{}} }}
            }}
            {sections}
            "#
        );
        let mut config = Config::resolve(
            &ConfigFile::parse("server.conf".as_ref(), text).unwrap(),
            &[],
            &Flags::default(),
        )
        .unwrap();
        config.bind_address.set_port(0);
        config
    }
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(crate) async fn start_with(settings: Settings<'_>) -> Self {
        Self::try_start(settings).await.unwrap()
    }

    pub(crate) async fn try_start(settings: Settings<'_>) -> anyhow::Result<Self> {
        install_provider();
        let own_dir = tempfile::tempdir().unwrap();
        let config = settings.config(settings.dir.unwrap_or_else(|| own_dir.path()));
        let plugins = finial_plugins::server().with_node_attestor("fake", build_fake);
        let server = Server::build(config, plugins).await?;
        let stop = CancellationToken::new();
        let (addr, socket) = (server.tcp_addr(), server.socket_path().to_owned());
        let mut running = JoinSet::new();
        running.spawn(server.run(stop.clone()));
        Ok(Self {
            addr,
            socket,
            stop,
            running,
            _dir: own_dir,
        })
    }

    /// Stops the server and returns how it ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.running.join_next())
            .await
            .expect("the server stops in time")
            .unwrap()
            .unwrap()
    }

    pub(crate) fn admin(&self) -> Channel {
        connect::unix(&self.socket)
    }

    pub(crate) fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.admin())
    }

    pub(crate) fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.admin())
    }

    pub(crate) fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.admin())
    }

    /// The bundle agents are given to start with.
    pub(crate) async fn bundle(&self) -> Bundle {
        let bundle = self.bundles().get_bundle(BundleRequest::default()).await;
        convert::bundle::from_pb(&bundle.unwrap().into_inner()).unwrap()
    }

    /// A TLS client without a certificate.
    pub(crate) async fn anonymous(&self) -> Channel {
        let roots = self.bundle().await;
        let roots = roots
            .x509_authorities
            .iter()
            .map(|authority| authority.der().clone())
            .collect();
        let config = bootstrap_config(ServerTrust::Bundle(roots), server_id());
        connect::tls(&self.addr.to_string(), config)
    }

    /// A TLS client with an SVID.
    pub(crate) async fn identified(&self, svid: &X509Svid, key: &SoftwareKey) -> Channel {
        let bundles = BundleStore::new();
        bundles.set(&self.bundle().await);
        let slot = SvidSlot::new();
        slot.set(svid.chain(), key.to_rustls());
        connect::tls(
            &self.addr.to_string(),
            client_config(Some(&slot), &bundles, server_id()),
        )
    }

    pub(crate) async fn token(&self) -> String {
        let request = agent_pb::CreateJoinTokenRequest {
            ttl: 600,
            ..Default::default()
        };
        let token = self.agents().create_join_token(request).await.unwrap();
        token.into_inner().value
    }

    /// An agent that has just attested with a token.
    pub(crate) async fn agent(&self) -> TestAgent {
        let token = self.token().await;
        self.attest("join_token", &token).await.unwrap()
    }

    /// Attests with the given data, answering each challenge with the bytes of the challenge in reverse.
    pub(crate) async fn attest(&self, attestor: &str, payload: &str) -> Result<TestAgent, Status> {
        let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let svid = self.attest_with(attestor, payload, csr_of(&key)).await?;
        let svid = convert::svid::from_pb(svid).unwrap();
        Ok(TestAgent {
            id: svid.id().clone(),
            channel: self.identified(&svid, &key).await,
            key,
            svid,
        })
    }

    pub(crate) async fn attest_with(
        &self,
        attestor: &str,
        payload: &str,
        csr: Bytes,
    ) -> Result<types::X509svid, Status> {
        let mut client = AgentClient::new(self.anonymous().await);
        attest_over(&mut client, attestor, payload, csr).await
    }

    /// Creates entries and returns them as stored.
    pub(crate) async fn create(&self, entries: Vec<types::Entry>) -> Vec<types::Entry> {
        self.try_create(entries)
            .await
            .into_iter()
            .map(|(status, entry)| {
                assert_eq!(status.code, 0, "{}", status.message);
                entry.unwrap()
            })
            .collect()
    }

    pub(crate) async fn try_create(
        &self,
        entries: Vec<types::Entry>,
    ) -> Vec<(types::Status, Option<types::Entry>)> {
        let request = entry_pb::BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        let response = self.entries().batch_create_entry(request).await.unwrap();
        response
            .into_inner()
            .results
            .into_iter()
            .map(|result| (result.status.unwrap(), result.entry))
            .collect()
    }
}

impl TestAgent {
    pub(crate) fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    pub(crate) fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone())
    }

    pub(crate) fn svids(&self) -> SvidClient<Channel> {
        SvidClient::new(self.channel.clone())
    }

    /// The ids of the entries the server authorizes this agent for, sorted.
    pub(crate) async fn authorized(&self) -> Vec<String> {
        let response = self
            .entries()
            .get_authorized_entries(entry_pb::GetAuthorizedEntriesRequest::default())
            .await
            .unwrap();
        let entries = response.into_inner().entries.into_iter();
        let mut ids: Vec<_> = entries.map(|entry| entry.id).collect();
        ids.sort();
        ids
    }
}

pub(crate) type BundleRequest = finial_proto::pb::spire::api::server::bundle::v1::GetBundleRequest;

pub(crate) async fn attest_over(
    client: &mut AgentClient<Channel>,
    attestor: &str,
    payload: &str,
    csr: Bytes,
) -> Result<types::X509svid, Status> {
    use agent_pb::attest_agent_request::{Params, Step};
    use agent_pb::attest_agent_response::Step as Reply;

    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let first = agent_pb::AttestAgentRequest {
        step: Some(Step::Params(Params {
            data: Some(types::AttestationData {
                r#type: attestor.to_owned(),
                payload: payload.to_owned().into(),
            }),
            params: Some(agent_pb::AgentX509svidParams { csr }),
        })),
    };
    sender.send(first).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.attest_agent(requests).await?.into_inner();
    loop {
        match replies.message().await?.and_then(|reply| reply.step) {
            Some(Reply::Result(result)) => return Ok(result.svid.unwrap()),
            Some(Reply::Challenge(challenge)) => {
                let answer: Vec<u8> = challenge.iter().rev().copied().collect();
                let answer = agent_pb::AttestAgentRequest {
                    step: Some(Step::ChallengeResponse(answer.into())),
                };
                sender.send(answer).await.unwrap();
            }
            None => panic!("the stream ended without a result"),
        }
    }
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").unwrap()
}

pub(crate) fn server_id() -> SpiffeId {
    SpiffeId::server_id(&trust_domain())
}

pub(crate) fn csr_of(key: &SoftwareKey) -> Bytes {
    csr::create_with_software(key, None, &[]).unwrap().into()
}

pub(crate) fn new_csr() -> Bytes {
    csr_of(&SoftwareKey::generate(KeyKind::EcP256).unwrap())
}

/// An entry for a workload of `parent`, told apart by its path.
pub(crate) fn entry(parent: &SpiffeId, path: &str) -> types::Entry {
    types::Entry {
        spiffe_id: Some(wire_id(path)),
        parent_id: Some(convert::id::to_pb(parent)),
        selectors: vec![selector("unix", &format!("user:{path}"))],
        ..Default::default()
    }
}

pub(crate) fn wire_id(path: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: "example.org".to_owned(),
        path: path.to_owned(),
    }
}

pub(crate) fn selector(kind: &str, value: &str) -> types::Selector {
    types::Selector {
        r#type: kind.to_owned(),
        value: value.to_owned(),
    }
}

/// Attests whoever knows what it wants to be called: the payload is `name`, `name reattest` or `name challenge`.
#[derive(Debug)]
struct FakeAttestor {
    trust_domain: TrustDomain,
}

#[expect(clippy::unnecessary_wraps, reason = "what a registry takes")]
fn build_fake(
    context: &PluginContext,
    _config: &PluginConfig,
) -> Result<Arc<dyn ServerNodeAttestor>, PluginError> {
    Ok(Arc::new(FakeAttestor {
        trust_domain: context.trust_domain.clone(),
    }))
}

#[async_trait]
impl ServerNodeAttestor for FakeAttestor {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn attest(
        &self,
        payload: &[u8],
        agent: &mut dyn Challenger,
    ) -> Result<NodeAttestation, AttestError> {
        let text = std::str::from_utf8(payload)
            .map_err(|_not_text| AttestError::malformed("payload is not text"))?;
        let mut words = text.split(' ');
        let name = words.next().unwrap_or_default();
        let word = words.next().unwrap_or_default();
        if word == "challenge" && agent.challenge(vec![1, 2, 3]).await? != [3, 2, 1] {
            return Err(AttestError::rejected("wrong answer"));
        }
        let agent_id =
            SpiffeId::from_segments(&self.trust_domain, &["spire", "agent", "fake", name])
                .map_err(|error| AttestError::malformed(error.to_string()))?;
        Ok(NodeAttestation {
            agent_id,
            selectors: SelectorSet::from_iter([Selector::new("fake", name)
                .map_err(|error| AttestError::malformed(error.to_string()))?]),
            can_reattest: word == "reattest",
        })
    }
}
