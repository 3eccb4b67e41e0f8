//! finial-agent
