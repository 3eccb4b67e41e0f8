//! Selectors: the properties by which nodes and workloads are recognised.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text::serde_as_text;

/// One property, written `type:value`, such as `unix:uid:1000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    kind: Arc<str>,
    value: Arc<str>,
}

impl Selector {
    /// Joins a type, which holds no colon, and a value; neither is empty.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() {
            return Err(SelectorError::MissingType);
        }
        if kind.contains(':') {
            return Err(SelectorError::ColonInType);
        }
        if value.is_empty() {
            return Err(SelectorError::MissingValue);
        }
        Ok(Self {
            kind: Arc::from(kind),
            value: Arc::from(value),
        })
    }

    /// The type: the name of the attestor that found it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The value; it may hold colons of its own.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text.split_once(':').ok_or_else(|| SelectorError::NoColon {
            text: text.to_owned(),
        })?;
        Self::new(kind, value)
    }
}

serde_as_text!(Selector);

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The type is empty.
    #[error("missing selector type")]
    MissingType,
    /// The type holds the separator.
    #[error("selector type contains ':'")]
    ColonInType,
    /// The value is empty.
    #[error("missing selector value")]
    MissingValue,
    /// The text has no separator.
    #[error("selector {text:?} must be formatted as type:value")]
    NoColon {
        /// What was given.
        text: String,
    },
}

/// Selectors without duplicates, ordered by type, then value. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectorSet(Arc<[Selector]>);

impl SelectorSet {
    /// The members in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// The members in order, as a slice.
    pub fn as_slice(&self) -> &[Selector] {
        &self.0
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether `selector` is a member.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// Tells whether each member is also one of `other`. The empty set is a subset of every set.
    pub fn is_subset_of(&self, other: &Self) -> bool {
        // Both sides are ordered, so one walk over `other` is enough.
        let mut others = other.iter();
        self.iter().all(|wanted| {
            others
                .by_ref()
                .find(|candidate| *candidate >= wanted)
                .is_some_and(|candidate| candidate == wanted)
        })
    }

    /// Tells whether at least one member is shared.
    pub fn intersects(&self, other: &Self) -> bool {
        let (few, many) = if self.len() <= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        few.iter().any(|selector| many.contains(selector))
    }

    /// The members of both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).cloned().collect()
    }
}

impl Default for SelectorSet {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut selectors = Vec::from_iter(selectors);
        selectors.sort_unstable();
        selectors.dedup();
        Self(Arc::from(selectors))
    }
}

impl<'a> IntoIterator for &'a SelectorSet {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for SelectorSet {
    /// Comma-joined, as SPIRE logs them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, selector) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(selector, f)?;
        }
        Ok(())
    }
}

impl Serialize for SelectorSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for SelectorSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Selector>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}
