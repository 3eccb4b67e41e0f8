//! One row for each RPC: who may call it, on which socket it exists, and which rate limit it draws from.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A set of roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Everyone, with or without a certificate.
    pub const ANYONE: Self = Self(1);
    /// Processes on the admin socket.
    pub const LOCAL: Self = Self(1 << 1);
    /// Admin SVIDs.
    pub const ADMIN: Self = Self(1 << 2);
    /// Downstream SVIDs.
    pub const DOWNSTREAM: Self = Self(1 << 3);
    /// Agents.
    pub const AGENT: Self = Self(1 << 4);

    /// Both sets together.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every role of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the sets share a role.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The rate limits; methods that name the same bucket share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// Node attestation.
    Attest,
    /// Signing of certificates.
    SignX509,
    /// Signing of JWT-SVIDs.
    SignJwt,
    /// Signing of WIT-SVIDs.
    SignWit,
    /// Publishing of keys by downstream servers.
    PublishKey,
    /// Status reports of agents.
    PostStatus,
}

/// What is true of one RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The full service name.
    pub service: &'static str,
    /// The method's name.
    pub method: &'static str,
    /// The path of the RPC: `/service/method`.
    pub path: &'static str,
    /// Who may call it.
    pub allowed: Roles,
    /// Which rate limit its handler draws from.
    pub bucket: Option<Bucket>,
    /// Whether the service exists on the admin socket only.
    pub local_only: bool,
    /// Whether the answer is a stream without an end, which the server closes when it stops.
    pub endless: bool,
}

impl Row {
    /// The service name as the log shows it: without its common prefix.
    pub fn short_service(&self) -> &'static str {
        self.service
            .strip_prefix("spire.api.server.")
            .unwrap_or(self.service)
    }

    const fn limited(mut self, bucket: Bucket) -> Self {
        self.bucket = Some(bucket);
        self
    }

    const fn local_only(mut self) -> Self {
        self.local_only = true;
        self
    }

    const fn endless(mut self) -> Self {
        self.endless = true;
        self
    }
}

/// The row of `path`, if the server knows that RPC.
pub fn find(path: &str) -> Option<&'static Row> {
    static INDEX: LazyLock<HashMap<&'static str, &'static Row>> =
        LazyLock::new(|| ROWS.iter().map(|row| (row.path, row)).collect());
    INDEX.get(path).copied()
}

/// Whether any row belongs to `service`.
pub fn has_service(service: &str, local: bool) -> bool {
    ROWS.iter()
        .any(|row| row.service == service && (local || !row.local_only))
}

macro_rules! row {
    ($service:literal, $method:literal, $allowed:expr) => {
        Row {
            service: $service,
            method: $method,
            path: concat!("/", $service, "/", $method),
            allowed: $allowed,
            bucket: None,
            local_only: false,
            endless: false,
        }
    };
}

macro_rules! agent {
    ($method:literal, $allowed:expr) => {
        row!("spire.api.server.agent.v1.Agent", $method, $allowed)
    };
}

macro_rules! bundle {
    ($method:literal, $allowed:expr) => {
        row!("spire.api.server.bundle.v1.Bundle", $method, $allowed)
    };
}

macro_rules! entry {
    ($method:literal, $allowed:expr) => {
        row!("spire.api.server.entry.v1.Entry", $method, $allowed)
    };
}

macro_rules! svid {
    ($method:literal, $allowed:expr) => {
        row!("spire.api.server.svid.v1.SVID", $method, $allowed)
    };
}

macro_rules! trust_domain {
    ($method:literal) => {
        row!(
            "spire.api.server.trustdomain.v1.TrustDomain",
            $method,
            OPERATOR
        )
    };
}

macro_rules! authority {
    ($method:literal) => {
        row!(
            "spire.api.server.localauthority.v1.LocalAuthority",
            $method,
            OPERATOR
        )
    };
}

macro_rules! logger {
    ($method:literal) => {
        row!("spire.api.server.logger.v1.Logger", $method, Roles::LOCAL).local_only()
    };
}

macro_rules! health {
    ($method:literal) => {
        row!("grpc.health.v1.Health", $method, Roles::LOCAL).local_only()
    };
}

const OPERATOR: Roles = Roles::LOCAL.or(Roles::ADMIN);

/// Every RPC the server knows.
pub const ROWS: &[Row] = &[
    agent!("CountAgents", OPERATOR),
    agent!("ListAgents", OPERATOR),
    agent!("GetAgent", OPERATOR),
    agent!("DeleteAgent", OPERATOR),
    agent!("BanAgent", OPERATOR),
    agent!("CreateJoinToken", OPERATOR),
    agent!("AttestAgent", Roles::ANYONE).limited(Bucket::Attest),
    agent!("RenewAgent", Roles::AGENT).limited(Bucket::SignX509),
    agent!("PostStatus", Roles::AGENT).limited(Bucket::PostStatus),
    bundle!("GetBundle", Roles::ANYONE),
    bundle!("CountBundles", OPERATOR),
    bundle!("AppendBundle", OPERATOR),
    bundle!("ListFederatedBundles", OPERATOR),
    bundle!("GetFederatedBundle", OPERATOR.or(Roles::AGENT)),
    bundle!("BatchCreateFederatedBundle", OPERATOR),
    bundle!("BatchUpdateFederatedBundle", OPERATOR),
    bundle!("BatchSetFederatedBundle", OPERATOR),
    bundle!("BatchDeleteFederatedBundle", OPERATOR),
    bundle!("PublishJWTAuthority", Roles::DOWNSTREAM).limited(Bucket::PublishKey),
    bundle!("PublishWITAuthority", Roles::DOWNSTREAM).limited(Bucket::PublishKey),
    entry!("CountEntries", OPERATOR),
    entry!("ListEntries", OPERATOR),
    entry!("GetEntry", OPERATOR),
    entry!("BatchCreateEntry", OPERATOR),
    entry!("BatchUpdateEntry", OPERATOR),
    entry!("BatchDeleteEntry", OPERATOR),
    entry!("GetAuthorizedEntries", Roles::AGENT),
    entry!("SyncAuthorizedEntries", Roles::AGENT),
    svid!("MintX509SVID", OPERATOR),
    svid!("MintJWTSVID", OPERATOR),
    svid!("MintWITSVID", OPERATOR),
    svid!("BatchNewX509SVID", Roles::AGENT).limited(Bucket::SignX509),
    svid!("NewJWTSVID", Roles::AGENT).limited(Bucket::SignJwt),
    svid!("BatchNewWITSVID", Roles::AGENT).limited(Bucket::SignWit),
    svid!("NewDownstreamX509CA", Roles::DOWNSTREAM).limited(Bucket::SignX509),
    trust_domain!("ListFederationRelationships"),
    trust_domain!("GetFederationRelationship"),
    trust_domain!("BatchCreateFederationRelationship"),
    trust_domain!("BatchUpdateFederationRelationship"),
    trust_domain!("BatchDeleteFederationRelationship"),
    trust_domain!("RefreshBundle"),
    authority!("GetJWTAuthorityState"),
    authority!("PrepareJWTAuthority"),
    authority!("ActivateJWTAuthority"),
    authority!("TaintJWTAuthority"),
    authority!("RevokeJWTAuthority"),
    authority!("GetX509AuthorityState"),
    authority!("PrepareX509Authority"),
    authority!("ActivateX509Authority"),
    authority!("TaintX509Authority"),
    authority!("RevokeX509Authority"),
    authority!("TaintX509UpstreamAuthority"),
    authority!("RevokeX509UpstreamAuthority"),
    authority!("GetWITAuthorityState"),
    authority!("PrepareWITAuthority"),
    authority!("ActivateWITAuthority"),
    authority!("TaintWITAuthority"),
    authority!("RevokeWITAuthority"),
    row!("spire.api.server.debug.v1.Debug", "GetInfo", Roles::LOCAL).local_only(),
    logger!("GetLogger"),
    logger!("SetLogLevel"),
    logger!("ResetLogLevel"),
    row!("finial.sync.v1.Sync", "Follow", Roles::AGENT).endless(),
    health!("Check"),
    health!("List"),
    health!("Watch").endless(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn served(service: &str) -> bool {
        service.starts_with("spire.api.server.") || service.starts_with("finial.sync.")
    }

    #[test]
    fn every_rpc_of_the_server_has_a_row() {
        let missing: Vec<_> = finial_proto::descriptor::methods()
            .into_iter()
            .filter(|method| served(&method.service))
            .filter(|method| find(&method.full).is_none())
            .map(|method| method.full)
            .collect();

        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn every_row_names_an_rpc_that_exists() {
        let known: BTreeSet<_> = finial_proto::descriptor::methods()
            .into_iter()
            .map(|method| method.full)
            .collect();
        let unknown: Vec<_> = ROWS
            .iter()
            .filter(|row| row.service != "grpc.health.v1.Health")
            .filter(|row| !known.contains(row.path))
            .map(|row| row.path)
            .collect();

        assert_eq!(unknown, Vec::<&str>::new());
    }

    #[test]
    fn rows_are_unique_and_someone_may_call_each() {
        let paths: BTreeSet<_> = ROWS.iter().map(|row| row.path).collect();
        assert_eq!(paths.len(), ROWS.len());
        assert!(ROWS.iter().all(|row| row.allowed != Roles(0)));
    }

    #[test]
    fn sixty_two_rpcs_are_those_of_spire() {
        let count = ROWS
            .iter()
            .filter(|row| row.service.starts_with("spire."))
            .count();
        assert_eq!(count, 62);
    }
}
