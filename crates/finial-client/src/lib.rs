//! finial-client
