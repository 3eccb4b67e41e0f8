//! The APIs an agent serves to what runs on its node, and to its operator.

pub mod debug;
pub mod explain;
pub mod health;
pub mod logger;
pub mod status;
pub mod workload;
