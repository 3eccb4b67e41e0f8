//! finial-plugin
