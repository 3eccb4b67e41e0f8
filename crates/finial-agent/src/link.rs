//! The agent's way to the server: one mTLS channel, dialled anew whenever the agent's SVID changes.
//!
//! A channel connects lazily and reconnects by itself, so being unreachable is an error of a call, never a state of the link.
//! Calls under way on the old channel finish there; who holds a stream open watches [`Link::dialled`] and opens it again.

use std::sync::Arc;

use finial_pki::software::SoftwareKey;
use finial_pki::tls::{self, BundleStore, ServerTrust, SvidSlot};
use rustls::ClientConfig;
use spiffe_types::bundle::Bundle;
use spiffe_types::id::{SpiffeId, TrustDomain};
use spiffe_types::svid::x509::X509Svid;
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::attestation::bootstrap::Trust;

/// The link. Clones share the channel.
#[derive(Clone, Debug)]
pub struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: String,
    connect: Connect,
    server_id: SpiffeId,
    svid: SvidSlot,
    bundles: BundleStore,
    dialled: watch::Sender<Dialled>,
}

#[derive(Debug)]
struct Dialled {
    count: u64,
    channel: Channel,
}

impl Link {
    /// Creates a link to the server of `trust_domain` at `address` (host and port). Nothing is dialled before the first call.
    pub fn new(address: String, trust_domain: &TrustDomain) -> Self {
        Self::with(address, trust_domain, finial_client::connect::tls)
    }

    /// Creates a link over plain TCP to a server of the tests.
    #[cfg(test)]
    pub(crate) fn plain(address: String, trust_domain: &TrustDomain) -> Self {
        Self::with(address, trust_domain, |address, _| {
            finial_client::connect::tcp(address)
        })
    }

    fn with(address: String, trust_domain: &TrustDomain, connect: Connect) -> Self {
        let server_id = SpiffeId::server_id(trust_domain);
        let (svid, bundles) = (SvidSlot::new(), BundleStore::new());
        let config = tls::client_config(Some(&svid), &bundles, server_id.clone());
        let channel = connect(&address, config);
        let (dialled, _) = watch::channel(Dialled { count: 0, channel });
        Self {
            inner: Arc::new(Inner {
                address,
                connect,
                server_id,
                svid,
                bundles,
                dialled,
            }),
        }
    }

    /// The server's address, host and port.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// The channel of the moment. Ask again for each call: rotation replaces it.
    pub fn channel(&self) -> Channel {
        self.inner.dialled.borrow().channel.clone()
    }

    /// Counts how often the channel was replaced; changes at each time.
    pub fn dialled(&self) -> Redialled {
        Redialled(self.inner.dialled.subscribe())
    }

    /// Believes the authorities of `bundle` from the next handshake on.
    pub fn set_bundle(&self, bundle: &Bundle) {
        self.inner.bundles.set(bundle);
    }

    /// Presents `svid` from now on, on a new channel.
    pub fn set_svid(&self, svid: &X509Svid, key: &SoftwareKey) {
        self.inner.svid.set(svid.chain(), key.to_rustls());
        self.redial();
    }

    /// Replaces the channel.
    pub fn redial(&self) {
        let inner = self.inner.as_ref();
        let config = tls::client_config(Some(&inner.svid), &inner.bundles, inner.server_id.clone());
        let channel = self.connect(config);
        inner.dialled.send_modify(|dialled| {
            dialled.count += 1;
            dialled.channel = channel;
        });
    }

    /// A channel for an agent without an SVID that trusts the server on the given grounds.
    pub fn bootstrap(&self, trust: &Trust) -> Channel {
        let trust = match trust {
            Trust::Authorities(authorities) => ServerTrust::Bundle(authorities.clone()),
            Trust::Insecure => ServerTrust::Insecure,
        };
        let config = tls::bootstrap_config(trust, self.inner.server_id.clone());
        self.connect(config)
    }

    /// A channel for attesting again: the bundle is known, no SVID is shown.
    pub fn anonymous(&self) -> Channel {
        let config = tls::client_config(None, &self.inner.bundles, self.inner.server_id.clone());
        self.connect(config)
    }

    fn connect(&self, config: Arc<ClientConfig>) -> Channel {
        (self.inner.connect)(&self.inner.address, config)
    }
}

/// Makes a channel to an address.
type Connect = fn(&str, Arc<ClientConfig>) -> Channel;

/// Tells when the channel was replaced.
#[derive(Debug)]
pub struct Redialled(watch::Receiver<Dialled>);

impl Redialled {
    /// Waits until the channel is replaced. Cancel-safe.
    pub async fn wait(&mut self) {
        if self.0.changed().await.is_err() {
            // The link is gone, and nobody replaces its channel any more.
            std::future::pending::<()>().await;
        }
    }
}
