//! Handshakes between SPIFFE peers over sockets in memory: who is let in, who is not, and what changes under a live listener.
#![expect(clippy::unwrap_used, reason = "test support")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use finial_pki::key::KeyKind;
use finial_pki::testing::{TestCa, TestSvid};
use finial_pki::tls::{
    BundleStore, PeerError, PeerSvid, ServerTrust, SvidSlot, bootstrap_config, client_config,
    peer_svid, server_config,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, ServerConfig};
use spiffe_types::bundle::Bundle;
use spiffe_types::id::{SpiffeId, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HOUR: Duration = Duration::from_hours(1);

#[expect(
    clippy::disallowed_methods,
    reason = "clients judge by the clock of the system"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn server_id() -> SpiffeId {
    id("spiffe://example.org/spire/server")
}

/// A server, and a client that is configured to talk to it.
struct World {
    ca: TestCa,
    server_slot: SvidSlot,
    server_bundles: BundleStore,
    server: Arc<ServerConfig>,
    client_slot: SvidSlot,
    client_bundles: BundleStore,
    client: Arc<ClientConfig>,
}

impl World {
    async fn new() -> Self {
        Self::with_key_kind(KeyKind::EcP256).await
    }

    async fn with_key_kind(kind: KeyKind) -> Self {
        let ca = TestCa::with_key_kind(&domain("example.org"), now(), kind).await;
        let (server_slot, server_bundles) = (SvidSlot::new(), BundleStore::new());
        let (client_slot, client_bundles) = (SvidSlot::new(), BundleStore::new());
        present(&server_slot, &ca.svid(&server_id(), now(), HOUR).await);
        server_bundles.set(&ca.bundle());
        client_bundles.set(&ca.bundle());
        let everybody = Arc::new(|id: &SpiffeId| id.path() != "/unwanted");
        let server = server_config(&server_slot, &server_bundles, everybody, Arc::new(now));
        let client = client_config(Some(&client_slot), &client_bundles, server_id());
        Self {
            ca,
            server_slot,
            server_bundles,
            server,
            client_slot,
            client_bundles,
            client,
        }
    }

    /// Presents an SVID of the world's own authority from now on.
    async fn client_is(&self, id: &SpiffeId) {
        present(&self.client_slot, &self.ca.svid(id, now(), HOUR).await);
    }

    /// Connects, says one word each way, and tells whom the server saw.
    async fn connect(&self) -> Result<Option<PeerSvid>, String> {
        connect(&self.server, &self.client)
            .await
            .map(|(peer, _)| peer)
    }
}

fn present(slot: &SvidSlot, svid: &TestSvid) {
    slot.set(&svid.chain, svid.key.to_rustls());
}

async fn connect(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(Option<PeerSvid>, TlsStream<DuplexStream>), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = async {
        let mut stream = TlsAcceptor::from(Arc::clone(server))
            .accept(far)
            .await
            .map_err(|error| format!("server: {error}"))?;
        let mut word = [0; 2];
        stream
            .read_exact(&mut word)
            .await
            .map_err(|error| format!("server: {error}"))?;
        stream
            .write_all(&word)
            .await
            .map_err(|error| format!("server: {error}"))?;
        stream
            .flush()
            .await
            .map_err(|error| format!("server: {error}"))?;
        let (_, connection) = stream.get_ref();
        Ok::<_, String>(
            connection
                .peer_certificates()
                .map(|chain| peer_svid(chain).unwrap()),
        )
    };
    let dial = async {
        let name = ServerName::try_from("whatever.test").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(client))
            .connect(name, near)
            .await
            .map_err(|error| format!("client: {error}"))?;
        stream
            .write_all(b"hi")
            .await
            .map_err(|error| format!("client: {error}"))?;
        let mut word = [0; 2];
        stream
            .read_exact(&mut word)
            .await
            .map_err(|error| format!("client: {error}"))?;
        Ok::<_, String>(stream)
    };
    let (server, client) = tokio::join!(accept, dial);
    // The side that refused tells more than the one that was hung up on.
    match (server, client) {
        (Ok(peer), Ok(stream)) => Ok((peer, stream)),
        (Err(server), Err(client)) if client.contains("peer certificate") => {
            Err(format!("{client} / {server}"))
        }
        (Err(server), _) => Err(server),
        (_, Err(client)) => Err(client),
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_let_in_as_nobody() {
    let world = World::new().await;
    assert_eq!(world.connect().await, Ok(None));
}

#[tokio::test]
async fn the_same_client_is_somebody_as_soon_as_its_slot_is_filled() {
    let world = World::new().await;
    assert_eq!(world.connect().await, Ok(None));
    let agent = id("spiffe://example.org/spire/agent/a");
    world.client_is(&agent).await;
    let peer = world.connect().await.unwrap().unwrap();
    assert_eq!(peer.id, agent);
    assert!(peer.not_after > now() && peer.not_after <= now() + HOUR);
    world.client_slot.clear();
    assert_eq!(world.connect().await, Ok(None));
}

#[tokio::test]
async fn authorities_of_every_key_kind_vouch() {
    for kind in [KeyKind::EcP384, KeyKind::Rsa2048] {
        let world = World::with_key_kind(kind).await;
        world.client_is(&id("spiffe://example.org/x")).await;
        assert!(world.connect().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    let world = World::new().await;
    let stranger = TestCa::new(&domain("example.org"), now()).await;
    present(
        &world.client_slot,
        &stranger
            .svid(&id("spiffe://example.org/x"), now(), HOUR)
            .await,
    );
    let error = world.connect().await.unwrap_err();
    assert!(
        error.starts_with("server: ") && error.contains("UnknownIssuer"),
        "{error}"
    );
}

#[tokio::test]
async fn an_expired_leaf_is_refused() {
    let world = World::new().await;
    let svid = world
        .ca
        .svid(&id("spiffe://example.org/x"), now() - HOUR / 2, HOUR / 4)
        .await;
    present(&world.client_slot, &svid);
    let error = world.connect().await.unwrap_err();
    assert!(
        error.starts_with("server: ") && error.contains("Expired"),
        "{error}"
    );
}

#[tokio::test]
async fn an_authority_cannot_vouch_for_another_trust_domain() {
    let world = World::new().await;
    let other = TestCa::new(&domain("other.test"), now()).await;
    world.server_bundles.set(&other.bundle());
    present(
        &world.client_slot,
        &other.svid(&id("spiffe://example.org/x"), now(), HOUR).await,
    );
    let error = world.connect().await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    // For its own it can, until its bundle goes.
    present(
        &world.client_slot,
        &other.svid(&id("spiffe://other.test/x"), now(), HOUR).await,
    );
    assert_eq!(
        world.connect().await.unwrap().unwrap().id,
        id("spiffe://other.test/x")
    );
    world.server_bundles.remove(&domain("other.test"));
    let error = world.connect().await.unwrap_err();
    assert!(
        error.contains("no X.509 bundle found for trust domain"),
        "{error}"
    );
}

#[tokio::test]
async fn an_id_that_is_not_wanted_is_refused() {
    let world = World::new().await;
    world.client_is(&id("spiffe://example.org/unwanted")).await;
    let error = world.connect().await.unwrap_err();
    assert!(
        error.contains("unexpected ID \"spiffe://example.org/unwanted\""),
        "{error}"
    );
}

#[tokio::test]
async fn an_authority_is_neither_a_client_nor_a_server() {
    let world = World::new().await;
    let key = finial_pki::software::SoftwareKey::generate(KeyKind::EcP256).unwrap();
    world
        .client_slot
        .set(&[world.ca.issuer().cert_der().clone()], key.to_rustls());
    let error = world.connect().await.unwrap_err();
    assert!(error.contains("invalid X509-SVID"), "{error}");
}

#[tokio::test]
async fn a_second_authority_is_believed_and_the_first_forgotten_under_the_same_listener() {
    let world = World::new().await;
    let second = TestCa::new(&domain("example.org"), now()).await;
    let svid = second
        .svid(&id("spiffe://example.org/x"), now(), HOUR)
        .await;
    present(&world.client_slot, &svid);
    assert!(world.connect().await.is_err());

    let mut both = world.ca.bundle();
    both.x509_authorities.push(second.authority());
    world.server_bundles.set(&both);
    assert!(world.connect().await.is_ok());

    world.server_bundles.set(&second.bundle());
    assert!(world.connect().await.is_ok());
    world.client_is(&id("spiffe://example.org/x")).await;
    assert!(
        world.connect().await.is_err(),
        "signed by the one that is gone"
    );
}

#[tokio::test]
async fn the_servers_own_svid_is_swapped_under_the_same_listener() {
    let world = World::new().await;
    let leaf = async || {
        let (_, stream) = connect(&world.server, &world.client).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = leaf().await;
    assert_eq!(leaf().await, before);
    let renewed = world.ca.svid(&server_id(), now(), HOUR).await;
    present(&world.server_slot, &renewed);
    assert_eq!(leaf().await, renewed.chain[0]);
}

#[tokio::test]
async fn a_server_with_another_id_is_refused_by_the_client() {
    let world = World::new().await;
    present(
        &world.server_slot,
        &world
            .ca
            .svid(&id("spiffe://example.org/impostor"), now(), HOUR)
            .await,
    );
    let error = world.connect().await.unwrap_err();
    assert!(
        error.starts_with("client: ") && error.contains("unexpected ID"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_without_a_bundle_believes_nobody() {
    let world = World::new().await;
    world
        .client_bundles
        .set(&Bundle::empty(domain("example.org")));
    let error = world.connect().await.unwrap_err();
    assert!(
        error.starts_with("client: ") && error.contains("UnknownIssuer"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_without_an_svid_refuses_handshakes() {
    let world = World::new().await;
    world.server_slot.clear();
    assert!(world.connect().await.is_err());
    assert!(!world.server_slot.is_set());
}

#[tokio::test]
async fn a_bootstrap_takes_the_authorities_it_was_given_or_the_operators_word() {
    let world = World::new().await;
    let stranger = TestCa::new(&domain("example.org"), now()).await;
    let given = |ca: &TestCa| ServerTrust::Bundle(vec![ca.issuer().cert_der().clone()]);
    assert!(
        connect(
            &world.server,
            &bootstrap_config(given(&world.ca), server_id())
        )
        .await
        .is_ok()
    );
    assert!(
        connect(
            &world.server,
            &bootstrap_config(given(&stranger), server_id())
        )
        .await
        .is_err()
    );
    assert!(
        connect(
            &world.server,
            &bootstrap_config(ServerTrust::Insecure, server_id())
        )
        .await
        .is_ok()
    );
    let other = id("spiffe://example.org/other");
    assert!(
        connect(
            &world.server,
            &bootstrap_config(ServerTrust::Insecure, other)
        )
        .await
        .is_err()
    );
}

#[tokio::test]
async fn peers_agree_on_tls13_http2_and_the_hybrid_key_exchange_and_resume_nothing() {
    let world = World::new().await;
    world.client_is(&id("spiffe://example.org/x")).await;
    for _ in 0..2 {
        let (_, stream) = connect(&world.server, &world.client).await.unwrap();
        let (_, connection) = stream.get_ref();
        assert_eq!(
            connection.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
        assert_eq!(connection.alpn_protocol(), Some(&b"h2"[..]));
        let group = connection
            .negotiated_key_exchange_group()
            .map(rustls::crypto::SupportedKxGroup::name);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(
            connection.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
    }
}

#[test]
fn callers_are_told_what_their_certificate_lacks() {
    assert_eq!(peer_svid(&[]), Err(PeerError::NoCertificate));
    assert_eq!(
        PeerError::NoUri.to_string(),
        "client certificate has no URI SAN"
    );
    assert_eq!(
        PeerError::ManyUris.to_string(),
        "client certificate has more than one URI SAN"
    );
}
