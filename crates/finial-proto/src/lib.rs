//! The gRPC messages and services of SPIFFE, SPIRE and finial, generated from `proto/`.

pub mod descriptor;
pub mod pb;
