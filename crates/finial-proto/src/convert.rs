//! Between the messages of the API and the types that hold the rules.
//!
//! Reading checks; writing cannot fail. A [`ConvertError`] reads as SPIRE words it, since its text ends in a status.

pub mod agent;
pub mod bundle;
pub mod denied;
pub mod entry;
pub mod id;
pub mod selector;
pub mod svid;
pub mod time;

use spiffe_types::bundle::JwtAuthorityError;
use spiffe_types::entry::{EntryError, EntryIdError};
use spiffe_types::id::{IdError, MembershipError};
use spiffe_types::selector::SelectorError;
use spiffe_types::svid::x509::{CertificateError, DerSequenceError, X509SvidError};
use tonic::Code;

/// Why a message cannot be taken. Its text is complete: causes are part of it, and it carries no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A SPIFFE ID is absent.
    #[error("request must specify SPIFFE ID")]
    MissingId,
    /// A SPIFFE ID or a trust domain breaks the grammar.
    #[error("{0}")]
    Id(IdError),
    /// A SPIFFE ID cannot play its role here.
    #[error("{0}")]
    Membership(MembershipError),
    /// A selector is none.
    #[error("{0}")]
    Selector(SelectorError),
    /// A filter names no selectors.
    #[error("empty selector set")]
    EmptySelectorSet,
    /// A filter names no trust domains.
    #[error("empty trust domain set")]
    EmptyTrustDomainSet,
    /// An entry breaks a rule.
    #[error("{0}")]
    Entry(EntryError),
    /// An entry to be changed cannot exist, since no entry can have its id.
    #[error("{0}")]
    EntryId(EntryIdError),
    /// A certificate cannot be read.
    #[error("{}", chain(.0))]
    Certificate(CertificateError),
    /// Several certificates in one field cannot be told apart.
    #[error("{0}")]
    DerSequence(DerSequenceError),
    /// A key cannot be a JWT authority.
    #[error("{0}")]
    JwtAuthority(JwtAuthorityError),
    /// Certificates are no X.509-SVID.
    #[error("{}", chain(.0))]
    X509Svid(X509SvidError),
    /// What is wrong with a field.
    #[error("{context}: {reason}")]
    In {
        /// The field, as SPIRE introduces it.
        context: &'static str,
        /// What is wrong with it.
        reason: Box<Self>,
    },
}

impl ConvertError {
    /// The status code SPIRE answers with.
    pub fn code(&self) -> Code {
        match self {
            Self::EntryId(_) => Code::NotFound,
            Self::Entry(error) if error.is_storage_rule() => Code::Internal,
            Self::In { reason, .. } => reason.code(),
            Self::MissingId
            | Self::Id(_)
            | Self::Membership(_)
            | Self::Selector(_)
            | Self::EmptySelectorSet
            | Self::EmptyTrustDomainSet
            | Self::Entry(_)
            | Self::Certificate(_)
            | Self::DerSequence(_)
            | Self::JwtAuthority(_)
            | Self::X509Svid(_) => Code::InvalidArgument,
        }
    }

    fn within(self, context: &'static str) -> Self {
        Self::In {
            context,
            reason: Box::new(self),
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
