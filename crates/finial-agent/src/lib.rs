//! The agent: attests its node, keeps the entries the server authorizes it for, and gives workloads their SVIDs.
//!
//! [`attestation`] and [`identity`] are about the agent itself, [`link`] is its way to the server, [`sync`] the only writer of the
//! [`cache`], and the served APIs are its readers.

pub mod agent;
pub mod api;
pub mod attestation;
pub mod cache;
mod catalog;
pub mod cli;
pub mod config;
pub mod endpoints;
pub mod identity;
pub mod link;
pub mod rpc;
pub mod socket;
pub mod sync;
pub mod workload;
