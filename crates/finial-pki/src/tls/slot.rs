//! The SVID that is presented.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};

/// Holds the SVID that handshakes present, on either side; clones share it.
#[derive(Debug, Clone, Default)]
pub struct SvidSlot {
    current: Arc<ArcSwapOption<CertifiedKey>>,
}

impl SvidSlot {
    /// Returns a slot with nothing in it: a client presents no certificate, a server refuses the handshake.
    pub fn new() -> Self {
        Self::default()
    }

    /// Presents `chain` (DER, leaf first) from the next handshake on.
    pub fn set(&self, chain: &[Bytes], key: Arc<dyn SigningKey>) {
        let chain = chain
            .iter()
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        self.current
            .store(Some(Arc::new(CertifiedKey::new(chain, key))));
    }

    /// Presents nothing from the next handshake on.
    pub fn clear(&self) {
        self.current.store(None);
    }

    /// Says whether there is an SVID to present.
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }
}

impl ResolvesServerCert for SvidSlot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl ResolvesClientCert for SvidSlot {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }

    fn has_certs(&self) -> bool {
        true // there may be one by the time of the handshake
    }
}
