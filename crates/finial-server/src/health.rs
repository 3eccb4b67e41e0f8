//! What the server's health consists of.

use std::path::PathBuf;
use std::sync::Arc;

use finial_client::connect;
use finial_proto::pb::spire::api::server::bundle::v1::GetBundleRequest;
use finial_proto::pb::spire::api::server::bundle::v1::bundle_client::BundleClient;
use finial_runtime::health::{Health, HealthRegistry};
use finial_runtime::log::chain;

use crate::api::Services;
use crate::ca::CaError;

/// The checks SPIRE's server has, under its names.
pub(crate) fn checks(services: &Arc<Services>, socket: PathBuf) -> HealthRegistry {
    let admin = BundleClient::new(connect::unix(socket));
    let (authority, rotator, store) = (
        Arc::clone(services),
        Arc::clone(services),
        Arc::clone(services),
    );
    HealthRegistry::new()
        .with_check("server", move || {
            let mut admin = admin.clone();
            async move {
                match admin.get_bundle(GetBundleRequest::default()).await {
                    Ok(_) => Health::good(),
                    Err(status) => Health::bad("get_bundle_err", status.message()),
                }
            }
        })
        .with_check("server.ca", move || {
            let services = Arc::clone(&authority);
            async move {
                match services.ca.check_health().await {
                    Ok(()) | Err(CaError::Rotations { .. }) => Health::good(),
                    Err(error) => Health::bad("sign_x509_svid_err", chain(&error)),
                }
            }
        })
        .with_check("server.ca.rotator", move || {
            let services = Arc::clone(&rotator);
            async move {
                match services.ca.check_health().await {
                    Err(error @ CaError::Rotations { .. }) => {
                        Health::bad("rotation_err", chain(&error))
                    }
                    Ok(()) | Err(_) => Health::good(),
                }
            }
        })
        .with_check("catalog.datastore", move || {
            let services = Arc::clone(&store);
            async move {
                match services.store.count_bundles().await {
                    Ok(_) => Health::good(),
                    Err(error) => Health::bad("list_bundle_err", chain(&error)),
                }
            }
        })
}
