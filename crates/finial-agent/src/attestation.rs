//! How the agent comes by its identity: what it kept on disk ([`storage`]), whom it trusts at first ([`bootstrap`]), and the
//! exchange with the server that turns a proof into an SVID ([`exchange`]).

pub mod bootstrap;
pub mod exchange;
pub mod storage;
