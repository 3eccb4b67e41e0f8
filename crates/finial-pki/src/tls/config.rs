//! The configurations.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::id::SpiffeId;

use super::slot::SvidSlot;
use super::store::BundleStore;
use super::verifier::{SpiffeVerifier, Trust};
use crate::x509::unix_time;

/// Decides whether an ID whose SVID is good is wanted here.
pub type Authorize = Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

/// Tells the time that validity is judged by.
pub type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Why a server is believed before there is a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerTrust {
    /// Authorities (DER) that were handed over beforehand.
    Bundle(Vec<Bytes>),
    /// The operator said so. Only the presented ID is compared.
    Insecure,
}

/// Makes aws-lc-rs the crypto provider of this process. Harmless when called again.
pub fn install_provider() {
    // An error means that one is installed already, by an earlier call.
    drop(provider().install_default());
}

/// Makes the configuration of a server that asks for a client certificate without insisting.
///
/// A presented certificate must be an SVID that the store's authorities vouch for and that `authorize` wants.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "the provider has suites for both versions"
)]
pub fn server_config(
    slot: &SvidSlot,
    bundles: &BundleStore,
    authorize: Authorize,
    now: Now,
) -> Arc<ServerConfig> {
    let provider = Arc::new(provider());
    let verifier = SpiffeVerifier {
        trust: Trust::Bundles(bundles.clone()),
        authorize,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(Clock(now)))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3 are supported")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(slot.clone()));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Arc::new(config)
}

/// Makes the configuration of a client that talks to the server called `expect`, and to no other.
///
/// Without a slot, or while it is empty, no certificate is presented.
pub fn client_config(
    slot: Option<&SvidSlot>,
    bundles: &BundleStore,
    expect: SpiffeId,
) -> Arc<ClientConfig> {
    client(slot, Trust::Bundles(bundles.clone()), expect)
}

/// Makes the configuration of a client that has no SVID yet.
pub fn bootstrap_config(trust: ServerTrust, expect: SpiffeId) -> Arc<ClientConfig> {
    let trust = match trust {
        ServerTrust::Insecure => Trust::Unverified,
        ServerTrust::Bundle(authorities) => {
            let mut bundle = Bundle::empty(expect.trust_domain());
            bundle.x509_authorities = authorities
                .into_iter()
                .filter_map(|der| match X509Authority::parse(der, false) {
                    Ok(authority) => Some(authority),
                    Err(error) => {
                        tracing::warn!(error = %error, "Bootstrap bundle holds a certificate that is no authority");
                        None
                    }
                })
                .collect();
            let bundles = BundleStore::new();
            bundles.set(&bundle);
            Trust::Bundles(bundles)
        }
    };
    client(None, trust, expect)
}

fn client(slot: Option<&SvidSlot>, trust: Trust, expect: SpiffeId) -> Arc<ClientConfig> {
    let provider = Arc::new(provider());
    let verifier = SpiffeVerifier {
        trust,
        authorize: Arc::new(move |id| *id == expect),
        algorithms: provider.signature_verification_algorithms,
    };
    #[expect(
        clippy::expect_used,
        reason = "the provider has suites for both versions"
    )]
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3 are supported")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match slot {
        Some(slot) => builder.with_client_cert_resolver(Arc::new(slot.clone())),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Arc::new(config)
}

/// The provider, with the hybrid post-quantum key exchange offered first.
fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group;
    CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

struct Clock(Now);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time((self.0)()))
    }
}

const ALPN_H2: &[u8] = b"h2";
