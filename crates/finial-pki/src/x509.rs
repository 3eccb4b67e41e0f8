//! X.509: names, certificate drafts, signing, and chain verification.
//!
//! Certificates are encoded by rcgen with a signer that signs nothing. The exact names and key are then put in byte for
//! byte, the real (possibly remote) key signs, and the parts are put together: a verifier compares issuer names as bytes,
//! and rcgen's own name type would lose repeated attributes.

pub mod encode;
mod issue;
mod name;
pub mod pop;
mod time;
mod verify;

pub use issue::{
    CaTemplate, Issuer, IssuerError, SignX509Error, SvidTemplate, random_serial, self_sign_ca,
    sign_svid,
};
pub use name::{SubjectName, SubjectNameError, distinguished_name};
pub(crate) use time::from_unix;
pub(crate) use verify::{Anchor, anchors_of, unix_time, unknown_trust_domain, verify_path};
pub use verify::{VerifyError, verify_svid};
