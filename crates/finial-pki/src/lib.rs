//! finial-pki
