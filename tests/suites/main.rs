//! Whole-system suites: the real programs, driven by clients that nobody here wrote.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends by panicking"
)]

mod compose;
mod crashes;
mod docker;
mod explain;
mod first_identity;
mod hostile;
mod impostors;
mod interop;
mod pid_reuse;
mod podman;
mod rotation;
mod sockets;
mod spire;
