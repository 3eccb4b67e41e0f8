//! How finial's programs call a server or an agent: channels over a Unix socket or over TLS, the SPIFFE Workload API as a
//! client sees it, and what a status says about the connection or the caller.
//!
//! The generated clients of `finial_proto::pb` work on a channel as they are; nothing wraps them here.

pub mod connect;
pub mod endpoint;
pub mod rpc_error;
pub mod status;
pub mod workload;
