//! finial-plugins

pub mod node_attestor;
