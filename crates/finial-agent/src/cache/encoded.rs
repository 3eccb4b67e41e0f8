//! Messages that are made once and sent often.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

/// The message that tells workloads of an update, encoded by the first stream that sends it and shared by all others.
///
/// It holds private keys: it lives no longer than the update and what is still being sent, and is never printed.
#[derive(Clone, Default)]
pub struct EncodedOnce(OnceLock<Option<Bytes>>);

impl EncodedOnce {
    /// Returns the message, which `encode` makes unless somebody did already; `None` when there is none to send.
    pub(crate) fn get_or_encode(&self, encode: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        self.0.get_or_init(encode).clone()
    }
}

impl fmt::Debug for EncodedOnce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EncodedOnce(…)")
    }
}
