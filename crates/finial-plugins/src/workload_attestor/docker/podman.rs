//! Podman, which has an engine for root and one for each user who runs it.
//!
//! A user's own engine answers as that user likes: whoever may make a cgroup named like a container of Podman's, as every user of
//! systemd may below his slice, and a socket where his engine would listen, could claim any label and image. So users' engines are
//! asked only where the operator has named their sockets. Then three things must agree on the user: the cgroup is in his slice, which
//! is where only root puts anybody; the process is his, which one that he started with `sudo` in that slice is not; and he listens at
//! the socket, which he could otherwise make a link to another's engine. What such an engine says is not kept, and few questions are
//! put to it at a time, as it may be slow on purpose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use finial_plugin::workload::Workload;
use finial_plugin::{AttestError, PluginError};
use tokio::sync::Semaphore;

use super::engine::{Engine, Version};
use super::transport::Address;
use crate::workload_attestor::container::Cgroup;

/// Where Podman listens: for root, and for everybody else.
#[derive(Debug)]
pub(super) struct Podman {
    rootful: Engine,
    /// `None` trusts no user's engine.
    rootless: Option<Rootless>,
}

#[derive(Debug)]
struct Rootless {
    /// What precedes and follows the user id in an address.
    template: (String, String),
    /// How many more questions may be put to the engines of users.
    turns: Mutex<HashMap<u32, Arc<Semaphore>>>,
}

/// Whose engine to ask about a container.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) engine: Engine,
    /// The turns that a user's own engine gives; `None` for root's.
    pub(super) turns: Option<Arc<Semaphore>>,
}

impl Podman {
    pub(super) fn new(socket: Option<&str>, template: Option<&str>) -> Result<Self, PluginError> {
        let rootless = match template {
            Some(template) => {
                let halves = split_template(template).ok_or_else(|| {
                    PluginError::misconfigured(format!(
                        "invalid podman_socket_path_template {template:?}: \
                         template must contain exactly one %d UID placeholder, and otherwise only escaped %%"
                    ))
                })?;
                Address::unix("podman_socket_path_template", &halves.0)?;
                Some(Rootless {
                    template: halves,
                    turns: Mutex::default(),
                })
            }
            None => None,
        };
        let rootful = Address::unix("podman_socket_path", socket.unwrap_or(ROOTFUL_SOCKET))?;
        Ok(Self {
            rootful: Engine::new(rootful, Version::newest()),
            rootless,
        })
    }

    /// Root's engine.
    pub(super) fn rootful(&self) -> &Engine {
        &self.rootful
    }

    /// Tells whether the engines of users are believed.
    pub(super) fn trusts_users(&self) -> bool {
        self.rootless.is_some()
    }

    /// Returns the engine of a process that is in the Podman container `id` by its cgroups.
    pub(super) fn engine_of(
        &self,
        workload: &Workload,
        cgroups: &[Cgroup],
        id: &str,
    ) -> Result<Option<Asked>, AttestError> {
        let Some(row) = cgroups.iter().find(|row| {
            row.path.contains(id) && (row.path.contains("libpod-") || row.path.contains("/libpod/"))
        }) else {
            return Ok(None);
        };
        let Some(user) = user_of(&row.path) else {
            return Ok(Some(Asked {
                engine: self.rootful.clone(),
                turns: None,
            }));
        };
        let Some(rootless) = &self.rootless else {
            return Err(AttestError::rejected(format!(
                "the container belongs to user {user}'s own Podman, which can claim any label and image; to believe the engines of \
                 users, set podman_socket_path_template = {ROOTLESS_SOCKET:?}, and let entries for their containers ask for \
                 unix:uid too"
            )));
        };
        if workload.uid() != user && !maps_user(workload, user)? {
            return Err(AttestError::rejected(format!(
                "user {} runs a process in a container of user {user}'s own Podman",
                workload.uid()
            )));
        }
        rootless.engine_of(user).map(Some)
    }
}

impl Rootless {
    fn engine_of(&self, user: u32) -> Result<Asked, AttestError> {
        let (before, after) = &self.template;
        let address = format!("{before}{user}{after}");
        let mut address = Address::unix("podman_socket_path_template", &address)?;
        if let Address::Unix { owner, .. } = &mut address {
            *owner = Some(user);
        }
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = turns
            .entry(user)
            .or_insert_with(|| Arc::new(Semaphore::new(TURNS)));
        Ok(Asked {
            engine: Engine::new(address, Version::newest()),
            turns: Some(Arc::clone(turns)),
        })
    }
}

/// Tells whether the user namespace of `workload` is another than the agent's and stands for `user` in part: it takes that user, or
/// root, to make one that does.
fn maps_user(workload: &Workload, user: u32) -> Result<bool, AttestError> {
    let map = workload.read_text("uid_map", UID_MAP_LIMIT_BYTES)?;
    let own = std::fs::read_to_string("/proc/self/uid_map");
    Ok(own.is_ok_and(|own| own != map) && is_mapped(&map, user))
}

/// Looks for `user` outside in `uid_map`, see `user_namespaces(7)`: lines of first ids inside and outside, and their number.
fn is_mapped(uid_map: &str, user: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1).map(str::parse::<u32>);
        match (fields.next(), fields.next()) {
            // The namespace that everybody is in has all users.
            (Some(Ok(0)), Some(Ok(u32::MAX))) => false,
            (Some(Ok(first)), Some(Ok(count))) => user >= first && user - first < count,
            _ => false,
        }
    })
}

/// Reads the user id of `/user.slice/user-<uid>.slice/…`. What bears such a name anywhere else may be anybody's invention.
fn user_of(path: &str) -> Option<u32> {
    let mut segments = path
        .split('/')
        .skip_while(|segment| matches!(*segment, "" | ".."));
    if segments.next()? != "user.slice" {
        return None;
    }
    let user = segments.next()?;
    segments.next()?; // the slice of a user always holds something
    user.strip_prefix("user-")?
        .strip_suffix(".slice")?
        .parse()
        .ok()
}

/// Splits at the one `%d`, and turns `%%` into `%`.
fn split_template(template: &str) -> Option<(String, String)> {
    let mut halves = [String::new(), String::new()];
    let mut half = 0;
    let mut characters = template.chars();
    while let Some(character) = characters.next() {
        let out = halves.get_mut(half)?;
        match (
            character,
            if character == '%' {
                characters.next()
            } else {
                None
            },
        ) {
            ('%', Some('%')) => out.push('%'),
            ('%', Some('d')) => half += 1,
            ('%', _) => return None,
            (other, _) => out.push(other),
        }
    }
    let [before, after] = halves;
    (half == 1).then_some((before, after))
}

const ROOTFUL_SOCKET: &str = "unix:///run/podman/podman.sock";
const ROOTLESS_SOCKET: &str = "unix:///run/user/%d/podman/podman.sock";

/// Questions to the engine of one user at a time.
const TURNS: usize = 8;
/// The kernel takes at most 340 lines.
const UID_MAP_LIMIT_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests;
