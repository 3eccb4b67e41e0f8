//! Registration entries: which SPIFFE ID a workload with certain selectors gets, from which agent.

mod dns;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

pub use dns::{DnsName, DnsNameError, check_wildcard_overlap};

use crate::id::{IdError, MembershipError, SpiffeId, TrustDomain};
use crate::selector::{SelectorError, SelectorSet};
use crate::text::serde_as_text;

/// The longest hint, in bytes.
pub const MAX_HINT_BYTES: usize = 1024;

/// The identifier of an entry: at most 255 of `A-Z a-z 0-9 - . _`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(String);

impl EntryId {
    /// Checks and takes a text.
    pub fn parse(text: &str) -> Result<Self, EntryIdError> {
        if text.is_empty() {
            return Err(EntryIdError::Empty);
        }
        if text.len() > 255 {
            return Err(EntryIdError::TooLong);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if !text.bytes().all(allowed) {
            return Err(EntryIdError::BadCharacter);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, EntryIdError> {
        Self::parse(text)
    }
}

impl std::borrow::Borrow<str> for EntryId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

serde_as_text!(EntryId);

/// Why a text is no entry id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryIdError {
    /// There is no text.
    #[error("missing entry ID")]
    Empty,
    /// It has more than 255 bytes.
    #[error("entry ID too long")]
    TooLong,
    /// It has a character outside the set.
    #[error("entry ID contains invalid characters")]
    BadCharacter,
}

/// A lifetime in whole seconds, from 1 to `i32::MAX`, which is what the API can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ttl(NonZeroU32);

impl Ttl {
    /// The lifetime of so many seconds; `None` outside the range.
    pub fn from_seconds(seconds: u32) -> Option<Self> {
        let representable = i32::try_from(seconds).is_ok();
        NonZeroU32::new(seconds).filter(|_| representable).map(Self)
    }

    /// The lifetime in seconds.
    pub const fn seconds(self) -> u32 {
        self.0.get()
    }

    /// The lifetime.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.get().into())
    }
}

impl From<Ttl> for Duration {
    fn from(ttl: Ttl) -> Self {
        ttl.duration()
    }
}

/// An entry as the server stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent attributes of the API's message"
)]
pub struct Entry {
    /// Its identifier.
    pub id: EntryId,
    /// What its workloads are called.
    pub spiffe_id: SpiffeId,
    /// Whose workloads it is about: an agent, or an entry whose id this is.
    pub parent_id: SpiffeId,
    /// What a workload must have, all of it. Never empty.
    pub selectors: SelectorSet,
    /// How long its X.509-SVIDs live; `None` for the server's default.
    pub x509_svid_ttl: Option<Ttl>,
    /// How long its JWT-SVIDs live; `None` for the server's default.
    pub jwt_svid_ttl: Option<Ttl>,
    /// Whose bundles its workloads get besides their own.
    pub federates_with: Vec<TrustDomain>,
    /// Whether its SVIDs may administer the server.
    pub admin: bool,
    /// Whether its workloads may be servers below this one.
    pub downstream: bool,
    /// Whether its SVIDs go to a store instead of the Workload API.
    pub store_svid: bool,
    /// When it ends; `None` for never.
    pub expires_at: Option<SystemTime>,
    /// The DNS names of its X.509-SVIDs; the first is also their common name.
    pub dns_names: Vec<DnsName>,
    /// What its workloads are told about the identity; empty for nothing.
    pub hint: String,
    /// 0 when created, one more with each update.
    pub revision_number: u64,
    /// When it was created, to the second.
    pub created_at: SystemTime,
    /// Whether agents wait for a workload before they fetch its X.509-SVID.
    pub disable_x509_svid_prefetch: bool,
    /// Whether its JWT-SVIDs carry a `jti`.
    pub jwt_svid_include_jti: bool,
}

impl Entry {
    /// Tells whether `new` says the same about the same workloads: no two such entries are created.
    pub fn is_similar_to(&self, new: &NewEntry) -> bool {
        self.spiffe_id == new.spiffe_id
            && self.parent_id == new.parent_id
            && self.selectors == new.selectors
    }

    /// Checks the rule about storable SVIDs, which spans several fields.
    pub fn check_storable(&self) -> Result<(), EntryError> {
        check_storable(
            self.store_svid,
            self.disable_x509_svid_prefetch,
            &self.selectors,
        )
    }
}

/// An entry to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent attributes of the API's message"
)]
pub struct NewEntry {
    /// The identifier asked for; `None` for a random one.
    pub id: Option<EntryId>,
    /// See [`Entry::spiffe_id`].
    pub spiffe_id: SpiffeId,
    /// See [`Entry::parent_id`].
    pub parent_id: SpiffeId,
    /// See [`Entry::selectors`].
    pub selectors: SelectorSet,
    /// See [`Entry::x509_svid_ttl`].
    pub x509_svid_ttl: Option<Ttl>,
    /// See [`Entry::jwt_svid_ttl`].
    pub jwt_svid_ttl: Option<Ttl>,
    /// See [`Entry::federates_with`].
    pub federates_with: Vec<TrustDomain>,
    /// See [`Entry::admin`].
    pub admin: bool,
    /// See [`Entry::downstream`].
    pub downstream: bool,
    /// See [`Entry::store_svid`].
    pub store_svid: bool,
    /// See [`Entry::expires_at`].
    pub expires_at: Option<SystemTime>,
    /// See [`Entry::dns_names`].
    pub dns_names: Vec<DnsName>,
    /// See [`Entry::hint`].
    pub hint: String,
    /// See [`Entry::disable_x509_svid_prefetch`].
    pub disable_x509_svid_prefetch: bool,
    /// See [`Entry::jwt_svid_include_jti`].
    pub jwt_svid_include_jti: bool,
}

impl NewEntry {
    /// An entry with nothing but the three fields every entry has.
    pub fn new(spiffe_id: SpiffeId, parent_id: SpiffeId, selectors: SelectorSet) -> Self {
        Self {
            id: None,
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl: None,
            jwt_svid_ttl: None,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            store_svid: false,
            expires_at: None,
            dns_names: Vec::new(),
            hint: String::new(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
        }
    }

    /// Checks the rules that need no more than the entry and the server's trust domain.
    pub fn validate(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        check_parent(&self.parent_id, trust_domain)?;
        check_subject(&self.spiffe_id, trust_domain)?;
        check_selectors(&self.selectors)?;
        check_hint(&self.hint)?;
        self.check_storable()
    }

    /// Checks the rule about storable SVIDs, which spans several fields.
    pub fn check_storable(&self) -> Result<(), EntryError> {
        check_storable(
            self.store_svid,
            self.disable_x509_svid_prefetch,
            &self.selectors,
        )
    }

    /// The entry as it is stored first. `id` is used when none was asked for.
    pub fn into_entry(self, id: EntryId, created_at: SystemTime) -> Entry {
        Entry {
            id: self.id.unwrap_or(id),
            spiffe_id: self.spiffe_id,
            parent_id: self.parent_id,
            selectors: self.selectors,
            x509_svid_ttl: self.x509_svid_ttl,
            jwt_svid_ttl: self.jwt_svid_ttl,
            federates_with: self.federates_with,
            admin: self.admin,
            downstream: self.downstream,
            store_svid: self.store_svid,
            expires_at: self.expires_at,
            dns_names: self.dns_names,
            hint: self.hint,
            revision_number: 0,
            created_at,
            disable_x509_svid_prefetch: self.disable_x509_svid_prefetch,
            jwt_svid_include_jti: self.jwt_svid_include_jti,
        }
    }
}

/// What an update changes: `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::option_option,
    reason = "outside: whether the field changes; inside: what it becomes"
)]
pub struct EntryPatch {
    /// See [`Entry::spiffe_id`].
    pub spiffe_id: Option<SpiffeId>,
    /// See [`Entry::parent_id`].
    pub parent_id: Option<SpiffeId>,
    /// See [`Entry::selectors`].
    pub selectors: Option<SelectorSet>,
    /// See [`Entry::x509_svid_ttl`].
    pub x509_svid_ttl: Option<Option<Ttl>>,
    /// See [`Entry::jwt_svid_ttl`].
    pub jwt_svid_ttl: Option<Option<Ttl>>,
    /// See [`Entry::federates_with`].
    pub federates_with: Option<Vec<TrustDomain>>,
    /// See [`Entry::admin`].
    pub admin: Option<bool>,
    /// See [`Entry::downstream`].
    pub downstream: Option<bool>,
    /// See [`Entry::store_svid`].
    pub store_svid: Option<bool>,
    /// See [`Entry::expires_at`].
    pub expires_at: Option<Option<SystemTime>>,
    /// See [`Entry::dns_names`].
    pub dns_names: Option<Vec<DnsName>>,
    /// See [`Entry::hint`].
    pub hint: Option<String>,
    /// See [`Entry::disable_x509_svid_prefetch`].
    pub disable_x509_svid_prefetch: Option<bool>,
    /// See [`Entry::jwt_svid_include_jti`].
    pub jwt_svid_include_jti: Option<bool>,
}

impl EntryPatch {
    /// Checks the fields that change, as [`NewEntry::validate`] does. The rule about storable SVIDs waits for the whole:
    /// see [`Entry::check_storable`].
    pub fn validate(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        if let Some(id) = &self.parent_id {
            check_parent(id, trust_domain)?;
        }
        if let Some(id) = &self.spiffe_id {
            check_subject(id, trust_domain)?;
        }
        self.selectors.as_ref().map_or(Ok(()), check_selectors)?;
        self.hint.as_deref().map_or(Ok(()), check_hint)
    }

    /// Changes `entry`. The revision number is left to the store.
    pub fn apply(self, entry: &mut Entry) {
        fn set<T>(field: &mut T, change: Option<T>) {
            if let Some(value) = change {
                *field = value;
            }
        }
        set(&mut entry.spiffe_id, self.spiffe_id);
        set(&mut entry.parent_id, self.parent_id);
        set(&mut entry.selectors, self.selectors);
        set(&mut entry.x509_svid_ttl, self.x509_svid_ttl);
        set(&mut entry.jwt_svid_ttl, self.jwt_svid_ttl);
        set(&mut entry.federates_with, self.federates_with);
        set(&mut entry.admin, self.admin);
        set(&mut entry.downstream, self.downstream);
        set(&mut entry.store_svid, self.store_svid);
        set(&mut entry.expires_at, self.expires_at);
        set(&mut entry.dns_names, self.dns_names);
        set(&mut entry.hint, self.hint);
        set(
            &mut entry.disable_x509_svid_prefetch,
            self.disable_x509_svid_prefetch,
        );
        set(&mut entry.jwt_svid_include_jti, self.jwt_svid_include_jti);
    }
}

/// Which rule an entry breaks. The texts are SPIRE's: clients match them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The parent cannot be one here.
    #[error("invalid parent ID: {reason}")]
    ParentId {
        /// Why not.
        reason: MembershipError,
    },
    /// The SPIFFE ID cannot be a workload's here.
    #[error("invalid spiffe ID: {reason}")]
    SpiffeId {
        /// Why not.
        reason: MembershipError,
    },
    /// There is no selector.
    #[error("selector list is empty")]
    NoSelectors,
    /// A selector is none.
    #[error("{reason}")]
    Selector {
        /// Why not.
        reason: SelectorError,
    },
    /// A DNS name is none.
    #[error("invalid DNS name: {reason}")]
    DnsName {
        /// Why not.
        reason: DnsNameError,
    },
    /// The name of a federated trust domain is none.
    #[error("invalid federated trust domain: {reason}")]
    FederatedTrustDomain {
        /// Why not.
        reason: IdError,
    },
    /// The hint has more than [`MAX_HINT_BYTES`].
    #[error("hint is too long, max length is 1024 characters")]
    HintTooLong,
    /// A storable SVID is described by selectors of several types.
    #[error(
        "datastore-validation: invalid registration entry: selector types must be the same when store SVID is enabled"
    )]
    MixedSelectorTypes,
    /// A storable SVID is never prefetched, so it cannot be asked not to be.
    #[error("datastore-validation: specifying cache behaviour is incompatible with storable SVIDs")]
    StorableWithoutPrefetch,
    /// The identifier is none.
    #[error("datastore-validation: invalid registration entry: {reason}")]
    EntryId {
        /// Why not.
        reason: EntryIdError,
    },
    /// The lifetime of X.509-SVIDs is negative.
    #[error("datastore-validation: invalid registration entry: X509SvidTtl is not set")]
    X509SvidTtl,
    /// The lifetime of JWT-SVIDs is negative.
    #[error("datastore-validation: invalid registration entry: JwtSvidTtl is not set")]
    JwtSvidTtl,
}

impl EntryError {
    /// Tells whether SPIRE finds this out in its data store only, and so reports it as an internal error.
    pub const fn is_storage_rule(&self) -> bool {
        match self {
            Self::MixedSelectorTypes
            | Self::StorableWithoutPrefetch
            | Self::EntryId { .. }
            | Self::X509SvidTtl
            | Self::JwtSvidTtl => true,
            Self::ParentId { .. }
            | Self::SpiffeId { .. }
            | Self::NoSelectors
            | Self::Selector { .. }
            | Self::DnsName { .. }
            | Self::FederatedTrustDomain { .. }
            | Self::HintTooLong => false,
        }
    }
}

fn check_parent(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), EntryError> {
    id.check_member(trust_domain)
        .map_err(|reason| EntryError::ParentId { reason })
}

fn check_subject(id: &SpiffeId, trust_domain: &TrustDomain) -> Result<(), EntryError> {
    id.check_workload(trust_domain)
        .map_err(|reason| EntryError::SpiffeId { reason })
}

const fn check_hint(hint: &str) -> Result<(), EntryError> {
    if hint.len() > MAX_HINT_BYTES {
        return Err(EntryError::HintTooLong);
    }
    Ok(())
}

fn check_selectors(selectors: &SelectorSet) -> Result<(), EntryError> {
    if selectors.is_empty() {
        return Err(EntryError::NoSelectors);
    }
    Ok(())
}

fn check_storable(
    store_svid: bool,
    no_prefetch: bool,
    selectors: &SelectorSet,
) -> Result<(), EntryError> {
    if !store_svid {
        return Ok(());
    }
    if no_prefetch {
        return Err(EntryError::StorableWithoutPrefetch);
    }
    let mut kinds = selectors.iter().map(crate::selector::Selector::kind);
    let first = kinds.next();
    if kinds.any(|kind| Some(kind) != first) {
        return Err(EntryError::MixedSelectorTypes);
    }
    Ok(())
}
