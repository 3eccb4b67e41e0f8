//! The server: the authority of a trust domain, and the keeper of its entries, agents and bundles.

pub mod api;
pub mod authorize;
pub mod ca;
mod catalog;
pub mod cli;
pub mod config;
mod endpoints;
mod health;
pub mod identity;
mod janitor;
pub mod registry;
pub mod server;
mod trust;
