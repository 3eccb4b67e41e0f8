//! SVIDs.

use spiffe_types::svid::x509::X509Svid;

use super::{ConvertError, id, time};
use crate::pb::spire::api::types;

/// The chain, whom it names and when it ends. The hint is the entry's business.
pub fn to_pb(svid: &X509Svid) -> types::X509svid {
    types::X509svid {
        cert_chain: svid.chain().to_vec(),
        id: Some(id::to_pb(svid.id())),
        expires_at: time::to_unix(svid.not_after()),
        hint: String::new(),
    }
}

/// The SVID that a server issued. The certificates are believed, not the fields beside them.
pub fn from_pb(svid: types::X509svid) -> Result<X509Svid, ConvertError> {
    X509Svid::parse(svid.cert_chain).map_err(ConvertError::X509Svid)
}
