//! SVIDs: documents that carry a SPIFFE ID.

pub mod x509;
