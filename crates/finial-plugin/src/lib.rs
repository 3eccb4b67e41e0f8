//! The seams between finial's cores and what can be plugged into them.
//!
//! Server and agent know these traits, plugins implement them, and neither knows the other: a binary's `main` hands the
//! registry of its plugins to its core. A plugin turns bytes into bytes and keys into signatures; streams, deadlines,
//! retries and what an error becomes on the wire are the host's.

pub mod bundle_publisher;
pub mod context;
pub mod credential_composer;
pub mod error;
#[cfg(feature = "testing")]
pub mod fakes;
pub mod key_manager;
pub mod node_attestor;
pub mod notifier;
pub mod registry;
pub mod upstream_authority;
pub mod workload;
pub mod workload_attestor;

pub use context::{JoinToken, PluginContext};
pub use error::{AttestError, AttestErrorKind, PluginError, PluginErrorKind};
pub use registry::{AgentRegistry, RegistryError, ServerRegistry};
