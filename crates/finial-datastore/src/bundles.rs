//! Bundles: the own trust domain's and those of others.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use spiffe_types::bundle::{AuthorityId, Bundle, JwtAuthority, X509Authority};
use spiffe_types::id::TrustDomain;

use crate::error::StoreError;
use crate::page::{Page, PageOf};

/// What of a bundle is replaced; `None` leaves it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundlePatch {
    /// All X.509 authorities.
    pub x509_authorities: Option<Vec<X509Authority>>,
    /// All JWT authorities.
    pub jwt_authorities: Option<Vec<JwtAuthority>>,
    /// The refresh hint, or that there is none.
    #[expect(clippy::option_option, reason = "the inner option is the value")]
    pub refresh_hint: Option<Option<Duration>>,
    /// The sequence number.
    pub sequence_number: Option<u64>,
}

/// What becomes of the entries that federate with a trust domain whose bundle is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeleteMode {
    /// Nothing: the deletion is refused while there are any.
    #[default]
    Restrict,
    /// They are deleted too.
    Delete,
    /// They no longer federate with it.
    Dissociate,
}

/// Stores bundles.
#[async_trait]
pub trait BundleStore: Debug + Send + Sync {
    /// Finds a bundle.
    async fn find_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StoreError>;

    /// Lists bundles in the order of their creation; without a page, all of them.
    async fn list_bundles(&self, page: Option<Page>) -> Result<PageOf<Bundle>, StoreError>;

    /// Counts bundles, the own one included.
    async fn count_bundles(&self) -> Result<u64, StoreError>;

    /// Creates a bundle.
    async fn create_bundle(&self, bundle: Bundle) -> Result<Bundle, StoreError>;

    /// Changes a bundle.
    async fn update_bundle(
        &self,
        trust_domain: &TrustDomain,
        patch: BundlePatch,
    ) -> Result<Bundle, StoreError>;

    /// Creates or replaces a bundle.
    async fn set_bundle(&self, bundle: Bundle) -> Result<Bundle, StoreError>;

    /// Adds the authorities that the stored bundle does not have, and returns the result. The sequence number rises by
    /// one if there were any; a bundle that did not exist is created as it is.
    async fn append_bundle(&self, bundle: &Bundle) -> Result<Bundle, StoreError>;

    /// Deletes a bundle.
    async fn delete_bundle(
        &self,
        trust_domain: &TrustDomain,
        mode: DeleteMode,
    ) -> Result<(), StoreError>;

    /// Drops the authorities that expired before a time, but never the last X.509 or the last JWT authority. Tells
    /// whether there were any; then the sequence number has risen by one and the refresh hint is gone.
    async fn prune_bundle(
        &self,
        trust_domain: &TrustDomain,
        expired_before: SystemTime,
    ) -> Result<bool, StoreError>;

    /// Marks an X.509 authority as no longer to be trusted for new SVIDs and returns the bundle.
    async fn taint_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        authority: &AuthorityId,
    ) -> Result<Bundle, StoreError>;

    /// Removes a tainted X.509 authority and returns the bundle.
    async fn revoke_x509_authority(
        &self,
        trust_domain: &TrustDomain,
        authority: &AuthorityId,
    ) -> Result<Bundle, StoreError>;

    /// Marks a JWT authority as no longer to be trusted and returns the bundle.
    async fn taint_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<Bundle, StoreError>;

    /// Removes a tainted JWT authority and returns the bundle.
    async fn revoke_jwt_authority(
        &self,
        trust_domain: &TrustDomain,
        key_id: &str,
    ) -> Result<Bundle, StoreError>;
}
