//! The SPIFFE types, each valid by construction: parse once at the edge, carry proof inside.
//!
//! Nothing here reads a clock, a file or a socket. What a rule needs to know it is given.

mod certificate;
mod text;

pub mod agent;
pub mod bundle;
pub mod entry;
pub mod id;
pub mod matcher;
pub mod pem;
pub mod selector;
pub mod svid;

pub use id::{SpiffeId, TrustDomain};
