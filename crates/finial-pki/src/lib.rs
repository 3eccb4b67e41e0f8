//! Keys, CSRs, certificates and TLS: everything cryptographic, over one provider (aws-lc-rs).
//!
//! What is parsed here is proven here: a [`csr::Csr`] was signed by its key, and what [`x509::verify_svid`] returns was vouched
//! for by the bundle of its own trust domain.

pub mod csr;
mod der;
pub mod key;
pub mod lifetime;
mod pss;
pub mod software;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tls;
pub mod x509;
