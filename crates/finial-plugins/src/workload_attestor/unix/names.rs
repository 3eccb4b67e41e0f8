//! Names of users and groups, kept for a moment.
//!
//! A burst of attestations asks for the same few names again and again, and each answer costs a walk through files or a call to a
//! directory service. So answers are kept for [`KEPT_FOR`], which bounds how long a renamed user goes by the old name.

use std::collections::HashMap;
use std::fs;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use tokio::time::Instant;

/// What the names of one process are; `None` where the database has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessNames {
    pub(super) user: Name,
    pub(super) group: Name,
    pub(super) supplementary: Vec<Name>,
}

/// A name, if there is one.
pub(super) type Name = Option<Arc<str>>;

/// The names that were asked for lately.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Mutex<Kept<u32>>,
    groups: Mutex<Kept<u32>>,
}

impl Names {
    /// Finds the names of a process. Cancel-safe.
    pub(super) async fn find(
        self: &Arc<Self>,
        uid: u32,
        gid: u32,
        supplementary: &[u32],
    ) -> ProcessNames {
        if let Some(names) = self.kept(uid, gid, supplementary) {
            return names;
        }
        let names = Arc::clone(self);
        let owned = supplementary.to_vec();
        let looked_up = tokio::task::spawn_blocking(move || names.look_up(uid, gid, &owned)).await;
        looked_up.unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to look up user and group names");
            ProcessNames {
                user: None,
                group: None,
                supplementary: vec![None; supplementary.len()],
            }
        })
    }

    fn kept(&self, uid: u32, gid: u32, supplementary: &[u32]) -> Option<ProcessNames> {
        let now = Instant::now();
        let user = lock(&self.users).find(&uid, now)?;
        let groups = lock(&self.groups);
        Some(ProcessNames {
            user,
            group: groups.find(&gid, now)?,
            supplementary: supplementary
                .iter()
                .map(|gid| groups.find(gid, now))
                .collect::<Option<_>>()?,
        })
    }

    fn look_up(&self, uid: u32, gid: u32, supplementary: &[u32]) -> ProcessNames {
        ProcessNames {
            user: through(&self.users, uid, user_name),
            group: through(&self.groups, gid, group_name),
            supplementary: supplementary
                .iter()
                .map(|gid| through(&self.groups, *gid, group_name))
                .collect(),
        }
    }
}

/// Answers from `kept`, or asks and keeps the answer. The lock is not held while asking.
fn through(kept: &Mutex<Kept<u32>>, id: u32, ask: fn(u32) -> Name) -> Name {
    if let Some(name) = lock(kept).find(&id, Instant::now()) {
        return name;
    }
    let name = ask(id);
    lock(kept).keep(id, name.clone(), Instant::now());
    name
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// A missing database is an error of the lookup; for the caller it is a missing name.
//
// A static program asks the files only: what nsswitch.conf may name beside them (systemd, LDAP) are shared libraries, and the C library
// crashes in them when the program itself is static.
fn user_name(uid: u32) -> Name {
    if IS_STATIC {
        return named_in(&fs::read_to_string("/etc/passwd").ok()?, uid);
    }
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten()?;
    Some(user.name.into())
}

fn group_name(gid: u32) -> Name {
    if IS_STATIC {
        return named_in(&fs::read_to_string("/etc/group").ok()?, gid);
    }
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten()?;
    Some(group.name.into())
}

/// Finds the name of `id` in a file in the form of `passwd(5)` or `group(5)`: name, password and id come first.
fn named_in(content: &str, id: u32) -> Name {
    content.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        (found == id).then(|| name.into())
    })
}

#[derive(Debug)]
struct Kept<K> {
    answers: HashMap<K, (Name, Instant)>,
}

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self {
            answers: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Kept<K> {
    fn find(&self, id: &K, now: Instant) -> Option<Name> {
        let (name, asked_at) = self.answers.get(id)?;
        (now.duration_since(*asked_at) < KEPT_FOR).then(|| name.clone())
    }

    fn keep(&mut self, id: K, name: Name, now: Instant) {
        if self.answers.len() >= KEPT_AT_MOST {
            self.answers.clear();
        }
        self.answers.insert(id, (name, now));
    }
}

/// How old an answer may be.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// How many answers are kept; more ids than a busy host has in five seconds.
const KEPT_AT_MOST: usize = 4096;
const IS_STATIC: bool = cfg!(target_feature = "crt-static");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_a_file_and_odd_lines_are_passed_over() {
        let content =
            "root:x:0:0:root:/root:/bin/sh\n+\n:x:7::\nbroken:x:seven:\n\nweb:x:7:7::/:\n";
        assert_eq!(named_in(content, 7), Some("web".into()));
        assert_eq!(named_in(content, 8), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_asked_for_again_once_it_is_old() {
        let mut kept = Kept::default();
        let name: Name = Some("web".into());
        kept.keep(7, name.clone(), Instant::now());

        assert_eq!(kept.find(&7, Instant::now()), Some(name));
        tokio::time::advance(KEPT_FOR).await;
        assert_eq!(kept.find(&7, Instant::now()), None);
    }

    #[tokio::test]
    async fn ids_without_a_name_are_answered_with_none() {
        let names = Arc::new(Names::default());

        let found = names.find(4_000_000_000, 0, &[4_000_000_001]).await;

        assert_eq!(found.user, None);
        assert_eq!(found.supplementary, [None]);
        assert_eq!(names.kept(4_000_000_000, 0, &[4_000_000_001]), Some(found));
    }
}
