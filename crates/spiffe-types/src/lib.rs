//! spiffe-types
