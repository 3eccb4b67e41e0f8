//! The server: the authority of a trust domain, and the keeper of its entries, agents and bundles.

pub mod config;
