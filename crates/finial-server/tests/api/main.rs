//! The server's API as its clients see it: a whole server in this process, on ports of its own, over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test support"
)]

mod access;
mod attest;
mod bundles;
mod entries;
mod hostile;
mod lifecycle;
mod support;
mod svids;
