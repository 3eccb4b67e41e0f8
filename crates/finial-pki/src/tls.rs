//! TLS between SPIFFE peers: configurations that follow changes of SVIDs and bundles under live listeners.
//!
//! The slots and stores handed to a configuration are shared, not copied: setting them changes what the next handshake
//! presents and believes. Sessions are never resumed, since a resumed one would skip verification.

mod config;
mod peer;
mod slot;
mod store;
mod verifier;

pub use config::{
    Authorize, Now, ServerTrust, bootstrap_config, client_config, install_provider, server_config,
};
pub use peer::{PeerError, PeerSvid, peer_svid};
pub use slot::SvidSlot;
pub use store::BundleStore;
