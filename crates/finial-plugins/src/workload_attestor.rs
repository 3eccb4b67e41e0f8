//! Workload attestors.

pub mod container;
pub mod docker;
pub mod unix;
