//! X.509-SVIDs as they are kept and handed out.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use spiffe_types::id::SpiffeId;
use spiffe_types::svid::x509::X509Svid;
use zeroize::Zeroizing;

/// A private key in PKCS#8 DER. The bytes are shared, not copied, by all who hand them out, wiped when the last of them is
/// done, and never printed.
#[derive(Clone)]
pub struct KeyDer(Bytes);

impl KeyDer {
    /// Takes over the bytes of a PKCS#8 document.
    pub fn new(pkcs8: Zeroizing<Vec<u8>>) -> Self {
        Self(Bytes::from_owner(pkcs8))
    }

    /// The PKCS#8 document, for a message; no copy is made.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for KeyDer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyDer(…)")
    }
}

/// An X.509-SVID with its key, as the server issued it for one entry.
#[derive(Debug)]
pub struct IssuedSvid {
    /// The identity the leaf certificate names.
    pub id: SpiffeId,
    /// The certificates in DER, leaf first.
    pub chain: Vec<Bytes>,
    /// The same certificates, concatenated: the form of the Workload API.
    pub chain_der: Bytes,
    /// The private key of the leaf.
    pub key_der: KeyDer,
    /// Start of the leaf's validity.
    pub not_before: SystemTime,
    /// End of the leaf's validity.
    pub not_after: SystemTime,
    /// When the next SVID is to be asked for: near half of the lifetime, drawn once when the SVID arrived.
    pub renew_at: SystemTime,
}

impl IssuedSvid {
    /// Joins a verified SVID with its key.
    pub fn new(svid: &X509Svid, key_der: KeyDer, renew_at: SystemTime) -> Self {
        Self {
            id: svid.id().clone(),
            chain: svid.chain().to_vec(),
            chain_der: svid.chain_der(),
            key_der,
            not_before: svid.not_before(),
            not_after: svid.not_after(),
            renew_at,
        }
    }

    /// Whether the leaf is past its validity.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.not_after <= now
    }
}
