//! Messages of the Workload API, read into what they mean.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use bytes::Bytes;
use finial_proto::pb;
use spiffe_types::bundle::{Bundle, X509Authority};
use spiffe_types::id::IdError;
use spiffe_types::svid::x509::{
    CertificateError, DerSequenceError, X509Svid, X509SvidError, parse_der_sequence,
};
use spiffe_types::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

/// The identities of a workload and the bundles to verify others with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Context {
    /// At least one; the first is the default. No two share a hint.
    pub identities: Vec<WorkloadIdentity>,
    /// The bundles of the identities' trust domains and of those federated with.
    pub bundles: X509Bundles,
}

/// An X.509-SVID with its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The certificates.
    pub svid: X509Svid,
    /// The key of the leaf.
    pub private_key: PrivateKey,
    /// What the operator says about the identity; empty for nothing.
    pub hint: String,
}

/// A private key in unencrypted PKCS#8 DER. Never shown; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// The key in DER.
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Bundles by their trust domain, each with its X.509 authorities alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct X509Bundles(pub BTreeMap<TrustDomain, Bundle>);

/// Which rule of the Workload API a message breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedResponse {
    /// There is no identity in it.
    #[error("response contains no X509-SVID")]
    NoSvids,
    /// There is no bundle in it.
    #[error("response contains no bundle")]
    NoBundles,
    /// A name is no SPIFFE ID or trust domain.
    #[error("response names {text:?}")]
    Id {
        /// The name.
        text: String,
        /// Why not.
        source: IdError,
    },
    /// The certificates of an identity cannot be told apart.
    #[error("X509-SVID of {id} cannot be read")]
    Chain {
        /// The identity.
        id: SpiffeId,
        /// Where reading failed.
        source: DerSequenceError,
    },
    /// The certificates are no X.509-SVID.
    #[error("X509-SVID of {id} breaks the standard")]
    Svid {
        /// The identity.
        id: SpiffeId,
        /// Which rule.
        source: X509SvidError,
    },
    /// The certificates name somebody else.
    #[error("X509-SVID of {id} names {named}")]
    OtherId {
        /// The identity the message promises.
        id: SpiffeId,
        /// The one in the certificate.
        named: SpiffeId,
    },
    /// An identity has no private key.
    #[error("X509-SVID of {id} has no private key")]
    NoKey {
        /// The identity.
        id: SpiffeId,
    },
    /// The certificates of a bundle cannot be told apart.
    #[error("bundle of {trust_domain} cannot be read")]
    Bundle {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Where reading failed.
        source: DerSequenceError,
    },
    /// A certificate of a bundle cannot be read.
    #[error("bundle of {trust_domain} has a certificate that cannot be read")]
    Authority {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// Why not.
        source: CertificateError,
    },
}

pub(super) fn read_x509_context(
    response: &pb::X509svidResponse,
) -> Result<X509Context, MalformedResponse> {
    let mut identities = Vec::with_capacity(response.svids.len());
    let mut bundles = BTreeMap::new();
    let mut hints = BTreeSet::new();
    for svid in &response.svids {
        let identity = read_identity(svid)?;
        let trust_domain = identity.svid.id().trust_domain();
        let bundle = read_bundle(&trust_domain, &svid.bundle)?;
        bundles.insert(trust_domain, bundle);
        // On a clash the first wins (Workload API §5.2.1).
        if svid.hint.is_empty() || hints.insert(svid.hint.as_str()) {
            identities.push(identity);
        }
    }
    if identities.is_empty() {
        return Err(MalformedResponse::NoSvids);
    }
    for (trust_domain, bundle) in read_bundles(&response.federated_bundles)? {
        bundles.entry(trust_domain).or_insert(bundle);
    }
    Ok(X509Context {
        identities,
        bundles: X509Bundles(bundles),
    })
}

pub(super) fn read_x509_bundles(
    response: &pb::X509BundlesResponse,
) -> Result<X509Bundles, MalformedResponse> {
    let bundles = read_bundles(&response.bundles)?;
    if bundles.is_empty() {
        return Err(MalformedResponse::NoBundles);
    }
    Ok(X509Bundles(bundles))
}

fn read_identity(svid: &pb::X509svid) -> Result<WorkloadIdentity, MalformedResponse> {
    let id = SpiffeId::parse(&svid.spiffe_id).map_err(|source| MalformedResponse::Id {
        text: svid.spiffe_id.clone(),
        source,
    })?;
    let chain = match parse_der_sequence(&svid.x509_svid) {
        Ok(chain) => chain,
        Err(source) => return Err(MalformedResponse::Chain { id, source }),
    };
    let parsed = match X509Svid::parse(chain) {
        Ok(parsed) => parsed,
        Err(source) => return Err(MalformedResponse::Svid { id, source }),
    };
    if *parsed.id() != id {
        let named = parsed.id().clone();
        return Err(MalformedResponse::OtherId { id, named });
    }
    if svid.x509_svid_key.is_empty() {
        return Err(MalformedResponse::NoKey { id });
    }
    Ok(WorkloadIdentity {
        svid: parsed,
        private_key: PrivateKey(Zeroizing::new(svid.x509_svid_key.to_vec())),
        hint: svid.hint.clone(),
    })
}

fn read_bundles(
    bundles: &HashMap<String, Bytes>,
) -> Result<BTreeMap<TrustDomain, Bundle>, MalformedResponse> {
    let mut read = BTreeMap::new();
    for (name, der) in bundles {
        let trust_domain = TrustDomain::parse(name).map_err(|source| MalformedResponse::Id {
            text: name.clone(),
            source,
        })?;
        let bundle = read_bundle(&trust_domain, der)?;
        read.insert(trust_domain, bundle);
    }
    Ok(read)
}

fn read_bundle(trust_domain: &TrustDomain, der: &[u8]) -> Result<Bundle, MalformedResponse> {
    let certificates = parse_der_sequence(der).map_err(|source| MalformedResponse::Bundle {
        trust_domain: trust_domain.clone(),
        source,
    })?;
    let authorities = certificates
        .into_iter()
        .map(|der| X509Authority::parse(der, false));
    let authorities =
        authorities
            .collect::<Result<_, _>>()
            .map_err(|source| MalformedResponse::Authority {
                trust_domain: trust_domain.clone(),
                source,
            })?;
    Ok(Bundle {
        x509_authorities: authorities,
        ..Bundle::empty(trust_domain.clone())
    })
}
