//! Verification of client certificates of foreign PKIs, for attestors that prove possession of a key.
//!
//! Such PKIs are odd: validity from the year 1, serial number 0, authorities without a key usage. The rules here are those
//! of Go's `crypto/x509` with any extended key usage, over a parser that takes such dates; strict path builders do not.

use std::time::SystemTime;

use bytes::Bytes;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, NameConstraints, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::time::unix;
use crate::key::PublicKey;

/// Why a chain is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// There is no certificate.
    #[error("no certificate given")]
    Empty,
    /// A certificate does not parse.
    #[error("malformed certificate {index}: {reason}")]
    Malformed {
        /// Place in the chain, leaf 0.
        index: usize,
        /// What was wrong.
        reason: String,
    },
    /// No configured authority vouches for it.
    #[error("certificate signed by unknown authority")]
    UnknownAuthority,
    /// A certificate is out of its validity.
    #[error("certificate has expired or is not yet valid: {subject}")]
    OutOfValidity {
        /// Its subject.
        subject: String,
    },
    /// A signer is no authority.
    #[error("certificate is not authorized to sign other certificates: {subject}")]
    NotAuthority {
        /// Its subject.
        subject: String,
    },
    /// More authorities follow than one allows.
    #[error("too many intermediates for path length constraint of {subject}")]
    PathTooLong {
        /// Subject of the one that limits.
        subject: String,
    },
    /// A critical extension is not understood.
    #[error("unhandled critical extension {oid} in {subject}")]
    CriticalExtension {
        /// The extension.
        oid: String,
        /// Subject of the certificate.
        subject: String,
    },
    /// An authority may not speak for the names of the leaf.
    #[error("{subject} is not authorized to sign for the name {name:?}")]
    NameConstraint {
        /// Subject of the authority.
        subject: String,
        /// The name.
        name: String,
    },
    /// The search was given up.
    #[error("signature check attempts limit reached while verifying certificate chain")]
    TooManyChecks,
}

/// Verifies a chain (DER, leaf first, the others in any order) and returns every path found, leaf first and root last.
///
/// As in Go, the authorities' own validity counts, and a leaf that is itself a configured root is believed.
pub fn verify_client_chain(
    chain: &[Bytes],
    roots: &[Bytes],
    now: SystemTime,
) -> Result<Vec<Vec<Bytes>>, ChainError> {
    let (leaf, intermediates) = chain.split_first().ok_or(ChainError::Empty)?;
    let leaf = Certificate::parse(leaf, 0)?;
    let intermediates = intermediates
        .iter()
        .zip(1..)
        .map(|(der, index)| Certificate::parse(der, index))
        .collect::<Result<Vec<_>, _>>()?;
    let roots = roots
        .iter()
        .filter_map(|der| Certificate::parse(der, 0).ok())
        .collect::<Vec<_>>();

    let mut search = Search {
        intermediates,
        roots,
        now: unix(now),
        checks: 0,
        found: Vec::new(),
        hint: None,
    };
    search.check_on_its_own(&leaf)?;
    if search.roots.iter().any(|root| root.der == leaf.der) {
        return Ok(vec![vec![leaf.der.clone()]]);
    }
    search.extend(&[&leaf])?;
    match (search.found, search.hint) {
        (found, _) if !found.is_empty() => Ok(found),
        (_, Some(hint)) => Err(hint),
        (_, None) => Err(ChainError::UnknownAuthority),
    }
}

struct Certificate<'a> {
    der: &'a Bytes,
    parsed: X509Certificate<'a>,
}

impl<'a> Certificate<'a> {
    fn parse(der: &'a Bytes, index: usize) -> Result<Self, ChainError> {
        let malformed = |reason: String| ChainError::Malformed { index, reason };
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|error| malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("trailing data".to_owned()));
        }
        parsed
            .extensions_map()
            .map_err(|error| malformed(error.to_string()))?;
        Ok(Self { der, parsed })
    }

    fn subject(&self) -> String {
        self.parsed.subject().to_string()
    }

    fn constraints(&self) -> Option<&NameConstraints<'a>> {
        self.parsed
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::NameConstraints(constraints) => Some(constraints),
                _ => None,
            })
    }

    fn names(&self) -> Vec<GeneralName<'a>> {
        self.parsed
            .extensions()
            .iter()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.clone()),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Intermediate,
    Root,
}

struct Search<'a> {
    intermediates: Vec<Certificate<'a>>,
    roots: Vec<Certificate<'a>>,
    now: i64,
    checks: usize,
    found: Vec<Vec<Bytes>>,
    hint: Option<ChainError>,
}

impl<'a> Search<'a> {
    /// Tries every authority that could have signed the last of `path`.
    fn extend(&mut self, path: &[&Certificate<'a>]) -> Result<(), ChainError> {
        let candidates = self.signers_of(path)?;
        for (place, index) in candidates {
            match place {
                Place::Root => {
                    let root = self.roots.get(index).map(|root| root.der.clone());
                    self.found.push(
                        path.iter()
                            .map(|certificate| certificate.der.clone())
                            .chain(root)
                            .collect(),
                    );
                }
                Place::Intermediate => {
                    if index >= self.intermediates.len() {
                        continue;
                    }
                    let signer = self.intermediates.swap_remove(index);
                    let mut longer = path.to_vec();
                    longer.push(&signer);
                    let outcome = self.extend(&longer);
                    // Put it back where it was, so that other indices stay good.
                    self.intermediates.push(signer);
                    let last = self.intermediates.len() - 1;
                    self.intermediates.swap(index, last);
                    outcome?;
                }
            }
        }
        Ok(())
    }

    fn signers_of(&mut self, path: &[&Certificate<'a>]) -> Result<Vec<(Place, usize)>, ChainError> {
        let Some(child) = path.last() else {
            return Ok(Vec::new());
        };
        let mut signers = Vec::new();
        let mut hint = None;
        let roots = self
            .roots
            .iter()
            .enumerate()
            .map(|(index, root)| (Place::Root, index, root));
        let intermediates = self
            .intermediates
            .iter()
            .enumerate()
            .map(|(index, ca)| (Place::Intermediate, index, ca));
        for (place, index, candidate) in roots.chain(intermediates) {
            if candidate.parsed.subject().as_raw() != child.parsed.issuer().as_raw()
                || path.iter().any(|seen| seen.der == candidate.der)
            {
                continue;
            }
            self.checks += 1;
            if self.checks > MAX_SIGNATURE_CHECKS {
                return Err(ChainError::TooManyChecks);
            }
            let signed =
                PublicKey::from_spki_der(candidate.parsed.public_key().raw).is_ok_and(|key| {
                    key.verify_x509(
                        &child.parsed.signature_algorithm,
                        child.parsed.tbs_certificate.as_ref(),
                        &child.parsed.signature_value.data,
                    )
                    .is_ok()
                });
            if !signed {
                continue;
            }
            match self
                .check_on_its_own(candidate)
                .and_then(|()| check_as_signer(candidate, path))
            {
                Ok(()) => signers.push((place, index)),
                Err(error) => hint = Some(error),
            }
        }
        if hint.is_some() {
            self.hint = hint;
        }
        Ok(signers)
    }

    fn check_on_its_own(&self, certificate: &Certificate<'_>) -> Result<(), ChainError> {
        for extension in certificate.parsed.extensions() {
            let understood = extension
                .oid
                .as_bytes()
                .split_last()
                .is_some_and(|(last, arc)| arc == [0x55, 0x1d] && UNDERSTOOD.contains(last));
            let parsed = !matches!(
                extension.parsed_extension(),
                ParsedExtension::ParseError { .. }
            );
            if extension.critical && !(understood && parsed) {
                return Err(ChainError::CriticalExtension {
                    oid: extension.oid.to_id_string(),
                    subject: certificate.subject(),
                });
            }
        }
        let validity = certificate.parsed.validity();
        if self.now < validity.not_before.timestamp() || self.now > validity.not_after.timestamp() {
            return Err(ChainError::OutOfValidity {
                subject: certificate.subject(),
            });
        }
        Ok(())
    }
}

fn check_as_signer(signer: &Certificate<'_>, path: &[&Certificate<'_>]) -> Result<(), ChainError> {
    let not_authority = || ChainError::NotAuthority {
        subject: signer.subject(),
    };
    let constraints = signer
        .parsed
        .basic_constraints()
        .map_err(|_malformed| not_authority())?
        .map(|extension| extension.value);
    match constraints {
        Some(constraints) if constraints.ca => {
            if let Some(limit) = constraints.path_len_constraint {
                let intermediates = path.len().saturating_sub(1);
                if u32::try_from(intermediates).is_ok_and(|count| count > limit) {
                    return Err(ChainError::PathTooLong {
                        subject: signer.subject(),
                    });
                }
            }
        }
        // Certificates before version 3 have no extensions to say it with.
        None if signer.parsed.version() != x509_parser::x509::X509Version::V3 => {}
        _ => return Err(not_authority()),
    }
    let usage = signer
        .parsed
        .key_usage()
        .map_err(|_malformed| not_authority())?;
    if usage.is_some_and(|usage| usage.value.flags != 0 && !usage.value.key_cert_sign()) {
        return Err(not_authority());
    }
    if let (Some(constraints), Some(leaf)) = (signer.constraints(), path.first()) {
        for name in leaf.names() {
            check_name(&name, constraints).map_err(|name| ChainError::NameConstraint {
                subject: signer.subject(),
                name,
            })?;
        }
    }
    Ok(())
}

fn check_name(name: &GeneralName<'_>, constraints: &NameConstraints<'_>) -> Result<(), String> {
    let bases = |trees: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| {
        trees
            .iter()
            .flatten()
            .filter(|tree| std::mem::discriminant(&tree.base) == std::mem::discriminant(name))
            .map(|tree| is_within(name, &tree.base))
            .collect::<Vec<_>>()
    };
    let excluded = bases(&constraints.excluded_subtrees);
    let permitted = bases(&constraints.permitted_subtrees);
    if excluded.contains(&true) || (!permitted.is_empty() && !permitted.contains(&true)) {
        return Err(name.to_string());
    }
    Ok(())
}

fn is_within(name: &GeneralName<'_>, base: &GeneralName<'_>) -> bool {
    match (name, base) {
        (GeneralName::DNSName(name), GeneralName::DNSName(base)) => {
            base.is_empty()
                || is_same_host(name, base)
                || is_subdomain(name, base.trim_start_matches('.'))
        }
        (GeneralName::URI(uri), GeneralName::URI(base)) => {
            let host = uri.split_once("://").map_or("", |(_, rest)| {
                rest.split(['/', '?', '#']).next().unwrap_or("")
            });
            let host = host.rsplit('@').next().unwrap_or(host);
            let host = host.split(':').next().unwrap_or(host);
            base.strip_prefix('.').map_or_else(
                || is_same_host(host, base),
                |domain| is_subdomain(host, domain),
            )
        }
        (GeneralName::RFC822Name(mail), GeneralName::RFC822Name(base)) => {
            let host = mail.rsplit('@').next().unwrap_or("");
            if base.contains('@') {
                mail == base
            } else {
                base.strip_prefix('.').map_or_else(
                    || is_same_host(host, base),
                    |domain| is_subdomain(host, domain),
                )
            }
        }
        (GeneralName::IPAddress(address), GeneralName::IPAddress(base)) => {
            let (network, mask) = base.split_at(base.len() / 2);
            network.len() == address.len()
                && address
                    .iter()
                    .zip(mask)
                    .map(|(byte, mask)| byte & mask)
                    .eq(network.iter().zip(mask).map(|(byte, mask)| byte & mask))
        }
        // A constraint nobody here can judge permits nothing and, to be safe, excludes everything of its type.
        _ => true,
    }
}

fn is_same_host(name: &str, base: &str) -> bool {
    name.eq_ignore_ascii_case(base)
}

fn is_subdomain(name: &str, domain: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.strip_suffix(&domain.to_ascii_lowercase())
        .is_some_and(|rest| rest.ends_with('.'))
}

/// As many as Go allows; a hostile chain of equal names costs no more.
const MAX_SIGNATURE_CHECKS: usize = 100;

/// Last arc below `2.5.29` of the extensions whose meaning is taken into account, or does not matter to a path.
const UNDERSTOOD: [u8; 12] = [14, 15, 17, 18, 19, 30, 31, 32, 33, 35, 36, 37];

#[cfg(test)]
#[path = "pop_tests.rs"]
mod tests;
