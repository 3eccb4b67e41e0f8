//! What goes wrong in a plugin, as the host needs to know it.
//!
//! The kind decides whether the host tries again and what its caller is told; the text is for people.

use std::error::Error as StdError;

use thiserror::Error;

/// The boxed cause of a plugin's failure.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// What a [`PluginError`] means for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PluginErrorKind {
    /// Something the plugin needs cannot be reached now; trying again may help.
    Unavailable,
    /// The plugin understood the request and says no; trying again does not help.
    Rejected,
    /// The plugin cannot do this at all.
    Unsupported,
    /// The plugin's configuration, or what it points at, is wrong; an operator has to act.
    Misconfigured,
    /// Anything else: a defect, a corrupt file, an answer that makes no sense.
    Internal,
}

/// A failed call of a plugin.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct PluginError {
    kind: PluginErrorKind,
    message: String,
    source: Option<Cause>,
}

impl PluginError {
    /// Creates an error of `kind` without a cause.
    pub fn new(kind: PluginErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Creates an [`Unavailable`](PluginErrorKind::Unavailable) error.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(PluginErrorKind::Unavailable, message)
    }

    /// Creates a [`Rejected`](PluginErrorKind::Rejected) error.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::new(PluginErrorKind::Rejected, message)
    }

    /// Creates an [`Unsupported`](PluginErrorKind::Unsupported) error.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(PluginErrorKind::Unsupported, message)
    }

    /// Creates a [`Misconfigured`](PluginErrorKind::Misconfigured) error.
    pub fn misconfigured(message: impl Into<String>) -> Self {
        Self::new(PluginErrorKind::Misconfigured, message)
    }

    /// Creates an [`Internal`](PluginErrorKind::Internal) error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(PluginErrorKind::Internal, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns what the failure means for the host.
    pub fn kind(&self) -> PluginErrorKind {
        self.kind
    }
}

/// What an [`AttestError`] means for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttestErrorKind {
    /// What the other side sent cannot be understood.
    Malformed,
    /// What the other side sent was understood and does not prove what it must.
    Rejected,
    /// Something the attestor needs cannot be reached now; trying again may help.
    Unavailable,
    /// The attestor cannot do this at all.
    Unsupported,
    /// The attestor's configuration, or what it points at, is wrong; an operator has to act.
    Misconfigured,
    /// Anything else.
    Internal,
}

/// A failed attestation.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct AttestError {
    kind: AttestErrorKind,
    message: String,
    source: Option<Cause>,
}

impl AttestError {
    /// Creates an error of `kind` without a cause.
    pub fn new(kind: AttestErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// Creates a [`Malformed`](AttestErrorKind::Malformed) error.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(AttestErrorKind::Malformed, message)
    }

    /// Creates a [`Rejected`](AttestErrorKind::Rejected) error.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self::new(AttestErrorKind::Rejected, message)
    }

    /// Creates an [`Unavailable`](AttestErrorKind::Unavailable) error.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(AttestErrorKind::Unavailable, message)
    }

    /// Creates an [`Unsupported`](AttestErrorKind::Unsupported) error.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(AttestErrorKind::Unsupported, message)
    }

    /// Creates a [`Misconfigured`](AttestErrorKind::Misconfigured) error.
    pub fn misconfigured(message: impl Into<String>) -> Self {
        Self::new(AttestErrorKind::Misconfigured, message)
    }

    /// Creates an [`Internal`](AttestErrorKind::Internal) error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(AttestErrorKind::Internal, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Cause>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns what the failure means for the host.
    pub fn kind(&self) -> AttestErrorKind {
        self.kind
    }
}

impl From<PluginError> for AttestError {
    fn from(error: PluginError) -> Self {
        let kind = match error.kind {
            PluginErrorKind::Unavailable => AttestErrorKind::Unavailable,
            PluginErrorKind::Rejected => AttestErrorKind::Rejected,
            PluginErrorKind::Unsupported => AttestErrorKind::Unsupported,
            PluginErrorKind::Misconfigured => AttestErrorKind::Misconfigured,
            PluginErrorKind::Internal => AttestErrorKind::Internal,
        };
        Self {
            kind,
            message: error.message,
            source: error.source,
        }
    }
}
