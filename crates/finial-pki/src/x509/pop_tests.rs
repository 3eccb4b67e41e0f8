use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::key::KeyKind;
use crate::software::SoftwareKey;
use crate::testing::foreign::{DIGITAL_SIGNATURE, ForeignCertificate, KEY_CERT_SIGN};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_355_011)
}

struct Pki {
    root_key: SoftwareKey,
    root: Bytes,
    middle_key: SoftwareKey,
    leaf_key: SoftwareKey,
}

impl Pki {
    fn new(root: &ForeignCertificate) -> Self {
        let key = || SoftwareKey::generate(KeyKind::EcP256).unwrap();
        let root_key = key();
        let root = root.self_sign(&root_key);
        Self {
            root_key,
            root,
            middle_key: key(),
            leaf_key: key(),
        }
    }

    fn middle(&self, draft: &ForeignCertificate) -> Bytes {
        draft.sign(self.middle_key.public_key(), "root", &self.root_key)
    }

    fn leaf(&self, draft: &ForeignCertificate) -> Bytes {
        draft.sign(self.leaf_key.public_key(), "middle", &self.middle_key)
    }

    fn verify(
        &self,
        middle: &ForeignCertificate,
        leaf: &ForeignCertificate,
    ) -> Result<usize, ChainError> {
        let chain = [self.leaf(leaf), self.middle(middle)];
        verify_client_chain(&chain, std::slice::from_ref(&self.root), now())
            .map(|paths| paths.len())
    }
}

fn middle() -> ForeignCertificate {
    ForeignCertificate::authority("middle")
}

fn leaf() -> ForeignCertificate {
    ForeignCertificate::leaf("host")
}

fn pki() -> Pki {
    Pki::new(&ForeignCertificate::authority("root"))
}

#[test]
fn a_chain_from_the_year_1_with_serial_0_and_no_key_usage_is_believed() {
    let pki = pki();
    let chain = [pki.leaf(&leaf()), pki.middle(&middle())];
    let paths = verify_client_chain(&chain, std::slice::from_ref(&pki.root), now()).unwrap();
    assert_eq!(
        paths,
        vec![vec![chain[0].clone(), chain[1].clone(), pki.root]]
    );
}

#[test]
fn each_broken_rule_is_named() {
    let pki = pki();
    let not_authority = Err(ChainError::NotAuthority {
        subject: "CN=middle".to_owned(),
    });
    assert_eq!(
        pki.verify(
            &ForeignCertificate {
                is_ca: Some(false),
                ..middle()
            },
            &leaf()
        ),
        not_authority
    );
    assert_eq!(
        pki.verify(
            &ForeignCertificate {
                is_ca: None,
                ..middle()
            },
            &leaf()
        ),
        not_authority
    );
    assert_eq!(
        pki.verify(
            &ForeignCertificate {
                key_usage: Some(DIGITAL_SIGNATURE),
                ..middle()
            },
            &leaf()
        ),
        not_authority
    );
    assert_eq!(
        pki.verify(
            &ForeignCertificate {
                key_usage: Some(KEY_CERT_SIGN),
                ..middle()
            },
            &leaf()
        ),
        Ok(1)
    );
    assert_eq!(
        pki.verify(
            &ForeignCertificate {
                not_after: "20200101000000Z".to_owned(),
                ..middle()
            },
            &leaf()
        ),
        Err(ChainError::OutOfValidity {
            subject: "CN=middle".to_owned()
        })
    );
    assert_eq!(
        pki.verify(
            &middle(),
            &ForeignCertificate {
                not_before: "20990101000000Z".to_owned(),
                ..leaf()
            }
        ),
        Err(ChainError::OutOfValidity {
            subject: "CN=host".to_owned()
        })
    );
    assert_eq!(
        pki.verify(
            &middle(),
            &ForeignCertificate {
                unknown_critical: true,
                ..leaf()
            }
        ),
        Err(ChainError::CriticalExtension {
            oid: "1.2.3.4".to_owned(),
            subject: "CN=host".to_owned()
        })
    );
}

#[test]
fn a_path_length_of_the_root_limits_the_intermediates() {
    let short = Pki::new(&ForeignCertificate {
        path_length: Some(0),
        ..ForeignCertificate::authority("root")
    });
    assert_eq!(
        short.verify(&middle(), &leaf()),
        Err(ChainError::PathTooLong {
            subject: "CN=root".to_owned()
        })
    );
    let enough = Pki::new(&ForeignCertificate {
        path_length: Some(1),
        ..ForeignCertificate::authority("root")
    });
    assert_eq!(enough.verify(&middle(), &leaf()), Ok(1));
}

#[test]
fn name_constraints_of_an_authority_bind_the_leaf() {
    let limited = ForeignCertificate {
        permitted_dns: vec!["corp.test".to_owned()],
        ..middle()
    };
    let named = |name: &str| ForeignCertificate {
        dns_names: vec![name.to_owned()],
        ..leaf()
    };
    let pki = pki();
    assert_eq!(pki.verify(&limited, &named("host.corp.test")), Ok(1));
    assert_eq!(pki.verify(&limited, &named("corp.test")), Ok(1));
    assert!(matches!(
        pki.verify(&limited, &named("evilcorp.test")),
        Err(ChainError::NameConstraint { .. })
    ));
}

#[test]
fn without_its_intermediate_or_with_another_root_a_leaf_is_unknown() {
    let pki = pki();
    let stranger = self::pki();
    let leaf = pki.leaf(&leaf());
    assert_eq!(
        verify_client_chain(
            std::slice::from_ref(&leaf),
            std::slice::from_ref(&pki.root),
            now()
        ),
        Err(ChainError::UnknownAuthority)
    );
    // Same names, other keys.
    assert_eq!(
        verify_client_chain(&[leaf, pki.middle(&middle())], &[stranger.root], now()),
        Err(ChainError::UnknownAuthority)
    );
    assert_eq!(
        verify_client_chain(&[], &[pki.root], now()),
        Err(ChainError::Empty)
    );
}

#[test]
fn a_leaf_that_is_itself_a_root_is_believed() {
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let own = leaf().self_sign(&key);
    let roots = [own.clone()];
    assert_eq!(
        verify_client_chain(std::slice::from_ref(&own), &roots, now()),
        Ok(vec![vec![own.clone()]])
    );
}

#[test]
fn cross_signed_authorities_give_every_path_once() {
    let pki = pki();
    let other_key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let other_root = ForeignCertificate::authority("root").self_sign(&other_key);
    let crossed = middle().sign(pki.middle_key.public_key(), "root", &other_key);
    let chain = [pki.leaf(&leaf()), pki.middle(&middle()), crossed];
    let paths = verify_client_chain(&chain, &[pki.root, other_root], now()).unwrap();
    assert_eq!(paths.len(), 2);
}

#[test]
fn a_heap_of_equal_names_costs_no_more_than_the_limit() {
    let key = SoftwareKey::generate(KeyKind::EcP256).unwrap();
    let looped = ForeignCertificate::authority("loop");
    let heap = (1..120_u8).map(|serial| {
        ForeignCertificate {
            serial: vec![serial],
            ..looped.clone()
        }
        .self_sign(&key)
    });
    let leaf = ForeignCertificate::leaf("host").sign(key.public_key(), "loop", &key);
    let chain = std::iter::once(leaf).chain(heap).collect::<Vec<_>>();
    assert_eq!(
        verify_client_chain(&chain, &[], now()),
        Err(ChainError::TooManyChecks)
    );
}
