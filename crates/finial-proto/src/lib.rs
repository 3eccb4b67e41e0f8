//! The gRPC messages and services of SPIFFE, SPIRE and finial, generated from `proto/`.

pub mod convert;
pub mod descriptor;
pub mod json;
pub mod mask;
pub mod pb;
