//! How agents prove on which node they run: both halves and the wire format of each attestor.

pub mod join_token;
pub mod path_template;
pub mod x509pop;
