//! finial-plugins
