//! The APIs an agent serves to what runs on its node.

pub mod health;
pub mod status;
pub mod workload;
