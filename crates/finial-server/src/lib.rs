//! finial-server
