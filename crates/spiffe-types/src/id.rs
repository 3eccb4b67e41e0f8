//! Trust domains and SPIFFE IDs: the grammar and limits of SPIFFE-ID §2.
//!
//! Upper-case letters in the scheme or the trust domain are refused rather than folded, as go-spiffe does, so equality
//! of two ids is equality of their text.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::text::serde_as_text;

/// The longest SPIFFE ID, in bytes, scheme included (SPIFFE-ID §2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// The longest trust domain name, in bytes (SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;

const SCHEME: &str = "spiffe://";

/// The name of a trust domain, such as `example.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a bare name, or takes the trust domain of a SPIFFE ID.
    pub fn parse(name_or_id: &str) -> Result<Self, IdError> {
        if name_or_id.is_empty() {
            return Err(IdError::MissingTrustDomain);
        }
        if name_or_id.contains(":/") {
            return SpiffeId::parse(name_or_id).map(|id| id.trust_domain());
        }
        check_trust_domain(name_or_id)?;
        Ok(Self(Arc::from(name_or_id)))
    }

    /// The name without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself: the one without a path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId::assemble(&self.0, "")
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

serde_as_text!(TrustDomain);

/// A SPIFFE ID, such as `spiffe://example.org/web`. Cheap to clone.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in `text`; its length when there is none.
    path_start: usize,
}

impl SpiffeId {
    /// Parses the text of a SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(IdError::WrongScheme)?;
        let (trust_domain, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if trust_domain.is_empty() {
            return Err(IdError::MissingTrustDomain);
        }
        check_trust_domain(trust_domain)?;
        check_path(path)?;
        check_length(text.len())?;
        Ok(Self {
            text: Arc::from(text),
            path_start: SCHEME.len() + trust_domain.len(),
        })
    }

    /// The id of `path` in `trust_domain`. The path is empty or begins with a slash.
    pub fn from_path(trust_domain: &TrustDomain, path: &str) -> Result<Self, IdError> {
        check_path(path)?;
        check_length(SCHEME.len() + trust_domain.0.len() + path.len())?;
        Ok(Self::assemble(&trust_domain.0, path))
    }

    /// The id whose path is `segments`, in order, each behind a slash.
    pub fn from_segments(trust_domain: &TrustDomain, segments: &[&str]) -> Result<Self, IdError> {
        let mut path = String::new();
        for segment in segments {
            check_segment(segment)?;
            path.push('/');
            path.push_str(segment);
        }
        check_length(SCHEME.len() + trust_domain.0.len() + path.len())?;
        Ok(Self::assemble(&trust_domain.0, &path))
    }

    /// The id every SPIRE server of a trust domain carries: `/spire/server`.
    pub fn server_id(trust_domain: &TrustDomain) -> Self {
        Self::assemble(&trust_domain.0, "/spire/server")
    }

    /// The whole id, scheme included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain this id belongs to.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(self.trust_domain_name()))
    }

    /// The name of the trust domain, borrowed.
    pub fn trust_domain_name(&self) -> &str {
        self.text
            .get(SCHEME.len()..self.path_start)
            .unwrap_or_default()
    }

    /// The path with its leading slash; empty for the id of a trust domain.
    pub fn path(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    /// Tells whether this id belongs to `trust_domain`.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// Tells whether the path is `/spire` or below, which no workload may carry.
    pub fn is_reserved(&self) -> bool {
        self.path()
            .strip_prefix("/spire")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Tells whether the path is below `/spire/agent/`.
    pub fn is_agent(&self) -> bool {
        self.path().starts_with("/spire/agent/")
    }

    /// Checks that this id belongs to `trust_domain` and has a path.
    pub fn check_member(&self, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
        self.check_has_path(trust_domain, "a member of")
    }

    /// Checks that this id belongs to `trust_domain` and is an agent's.
    pub fn check_agent(&self, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
        self.check_has_path(trust_domain, "an agent in")?;
        if !self.is_agent() {
            return Err(MembershipError::NotAnAgent {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(())
    }

    /// Checks that this id belongs to `trust_domain` and is one a workload may carry.
    pub fn check_workload(&self, trust_domain: &TrustDomain) -> Result<(), MembershipError> {
        self.check_has_path(trust_domain, "a workload in")?;
        if self.is_reserved() {
            return Err(MembershipError::Reserved {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(())
    }

    fn check_has_path(
        &self,
        trust_domain: &TrustDomain,
        role: &'static str,
    ) -> Result<(), MembershipError> {
        if !self.is_member_of(trust_domain) {
            return Err(MembershipError::Foreign {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        if self.path().is_empty() {
            return Err(MembershipError::NoPath {
                id: self.clone(),
                trust_domain: trust_domain.clone(),
                role,
            });
        }
        Ok(())
    }

    /// Joins two checked parts.
    fn assemble(trust_domain: &str, path: &str) -> Self {
        Self {
            text: Arc::from([SCHEME, trust_domain, path].concat()),
            path_start: SCHEME.len() + trust_domain.len(),
        }
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

serde_as_text!(SpiffeId);

/// Why a text is no trust domain or SPIFFE ID. The texts are go-spiffe's: clients match them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The id is an empty string.
    #[error("cannot be empty")]
    Empty,
    /// The text does not begin with `spiffe://`.
    #[error("scheme is missing or invalid")]
    WrongScheme,
    /// Nothing stands between the scheme and the path.
    #[error("trust domain is missing")]
    MissingTrustDomain,
    /// A character outside the set of a trust domain; user info and ports end here too.
    #[error(
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    BadTrustDomainCharacter,
    /// The trust domain is longer than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("trust domain cannot be longer than 255 bytes")]
    TrustDomainTooLong,
    /// A character outside the set of a path; queries, fragments and percent-encoding end here too.
    #[error(
        "path segment characters are limited to letters, numbers, dots, dashes, and underscores"
    )]
    BadPathCharacter,
    /// A segment is `.` or `..`.
    #[error("path cannot contain dot segments")]
    DotSegment,
    /// A path that is not empty begins with something else than a slash.
    #[error("path must have a leading slash")]
    NoLeadingSlash,
    /// Two slashes stand next to each other.
    #[error("path cannot contain empty segments")]
    EmptySegment,
    /// The path ends with a slash.
    #[error("path cannot have a trailing slash")]
    TrailingSlash,
    /// The id is longer than [`MAX_ID_BYTES`].
    #[error("cannot be longer than 2048 bytes")]
    TooLong,
}

/// Why an id may not play a role in a trust domain. The texts are SPIRE's: clients match them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// The id is of another trust domain.
    #[error("{:?} is not a member of trust domain {trust_domain:?}", id.as_str())]
    Foreign {
        /// The id.
        id: SpiffeId,
        /// Where it should belong.
        trust_domain: TrustDomain,
    },
    /// The id is that of the trust domain itself.
    #[error("{:?} is not {role} trust domain {trust_domain:?}; path is empty", id.as_str())]
    NoPath {
        /// The id.
        id: SpiffeId,
        /// Where it belongs.
        trust_domain: TrustDomain,
        /// What it should be, with its article and preposition.
        role: &'static str,
    },
    /// The path is not below `/spire/agent/`.
    #[error("{:?} is not an agent in trust domain {trust_domain:?}; path is not in the agent namespace", id.as_str())]
    NotAnAgent {
        /// The id.
        id: SpiffeId,
        /// Where it belongs.
        trust_domain: TrustDomain,
    },
    /// The path is `/spire` or below.
    #[error("{:?} is not a workload in trust domain {trust_domain:?}; path is in the reserved namespace", id.as_str())]
    Reserved {
        /// The id.
        id: SpiffeId,
        /// Where it belongs.
        trust_domain: TrustDomain,
    },
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if !name.bytes().all(is_trust_domain_byte) {
        return Err(IdError::BadTrustDomainCharacter);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(IdError::TrustDomainTooLong);
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() {
        return Ok(());
    }
    let segments = path.strip_prefix('/').ok_or(IdError::NoLeadingSlash)?;
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        match check_segment(segment) {
            Err(IdError::EmptySegment) if segments.peek().is_none() => {
                return Err(IdError::TrailingSlash);
            }
            checked => checked?,
        }
    }
    Ok(())
}

fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if segment.bytes().all(is_path_byte) => Ok(()),
        _ => Err(IdError::BadPathCharacter),
    }
}

fn check_length(bytes: usize) -> Result<(), IdError> {
    if bytes > MAX_ID_BYTES {
        return Err(IdError::TooLong);
    }
    Ok(())
}

const fn is_trust_domain_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_')
}

const fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || is_trust_domain_byte(byte)
}
