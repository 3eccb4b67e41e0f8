//! finial-datastore
