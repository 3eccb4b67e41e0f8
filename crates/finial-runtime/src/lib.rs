//! finial-runtime
