//! Podman, which has an engine for root and one for each user who runs it.
//!
//! A user's own engine answers as that user likes: whoever may make a cgroup named like a container of Podman's, as every user of
//! systemd may below his slice, and a socket where his engine would listen, could claim any label and image. So users' engines are
//! asked only where the operator has named their sockets, and only about processes of that user.

use finial_plugin::workload::Workload;
use finial_plugin::{AttestError, PluginError};

use super::engine::{Engine, Version};
use super::transport::Address;
use crate::workload_attestor::container::Cgroup;

/// Where Podman listens: for root, and for everybody else.
#[derive(Debug)]
pub(super) struct Podman {
    rootful: Address,
    /// What precedes and follows the user id; `None` trusts no user's engine.
    rootless: Option<(String, String)>,
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
                Some(halves)
            }
            None => None,
        };
        Ok(Self {
            rootful: Address::unix("podman_socket_path", socket.unwrap_or(ROOTFUL_SOCKET))?,
            rootless,
        })
    }

    /// Root's engine.
    pub(super) fn rootful(&self) -> Engine {
        Engine::new(self.rootful.clone(), Version::newest())
    }

    /// Returns the engine of a process in a Podman container, known by its cgroups.
    pub(super) fn engine_of(
        &self,
        workload: &Workload,
        cgroups: &[Cgroup],
    ) -> Result<Option<Engine>, AttestError> {
        let Some(row) = cgroups
            .iter()
            .find(|row| row.path.contains("libpod-") || row.path.contains("/libpod/"))
        else {
            return Ok(None);
        };
        let Some(user) = user_of(&row.path) else {
            return Ok(Some(self.rootful()));
        };
        let Some((before, after)) = &self.rootless else {
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
        let address = Address::unix(
            "podman_socket_path_template",
            &format!("{before}{user}{after}"),
        )?;
        Ok(Some(Engine::new(address, Version::newest())))
    }
}

/// Tells whether the user namespace of `workload` stands for `user` in part: it takes that user, or root, to make one that does.
fn maps_user(workload: &Workload, user: u32) -> Result<bool, AttestError> {
    Ok(is_mapped(
        &workload.read_text("uid_map", UID_MAP_LIMIT_BYTES)?,
        user,
    ))
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

/// Reads the user id of `…/user-<uid>.slice/…`.
fn user_of(path: &str) -> Option<u32> {
    let mut segments = path.split('/');
    segments.next_back(); // the slice of a user always holds something
    segments.find_map(|segment| {
        segment
            .strip_prefix("user-")?
            .strip_suffix(".slice")?
            .parse()
            .ok()
    })
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

/// The kernel takes at most 340 lines.
const UID_MAP_LIMIT_BYTES: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use finial_plugin::workload::Peer;

    use super::*;

    fn cgroup(path: &str) -> [Cgroup; 1] {
        [Cgroup {
            hierarchy: String::new(),
            path: path.to_owned(),
        }]
    }

    fn this_process() -> Workload {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        Peer::capture(&ours).unwrap().open().unwrap()
    }

    #[test]
    fn the_cgroup_tells_whose_engine_to_ask() {
        let podman = Podman::new(None, Some(ROOTLESS_SOCKET)).unwrap();
        let workload = this_process();
        let engine = |path: &str| {
            let engine = podman.engine_of(&workload, &cgroup(path))?;
            Ok::<_, AttestError>(engine.map(|engine| engine.address().to_string()))
        };

        assert_eq!(engine("/docker/77").unwrap(), None);
        let rootful = Some("/run/podman/podman.sock".to_owned());
        assert_eq!(
            engine("/machine.slice/libpod-77.scope/container").unwrap(),
            rootful
        );
        assert_eq!(
            engine("/user.slice/user-99999999999.slice/libpod-77.scope").unwrap(),
            rootful
        );
        let user = workload.uid();
        let slice = |user: u32| {
            format!("/user.slice/user-{user}.slice/user@{user}.service/user.slice/libpod-77.scope")
        };
        assert_eq!(
            engine(&slice(user)).unwrap(),
            Some(format!("/run/user/{user}/podman/podman.sock"))
        );
        let error = engine(&slice(user + 1)).unwrap_err().to_string();
        assert!(
            error.contains(&format!("user {user} runs a process in")),
            "{error}"
        );
    }

    #[test]
    fn the_engines_of_users_are_believed_only_where_the_operator_says_so() {
        let podman = Podman::new(None, None).unwrap();
        let path = "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-77.scope";
        let error = podman
            .engine_of(&this_process(), &cgroup(path))
            .unwrap_err()
            .to_string();
        assert!(error.contains("set podman_socket_path_template"), "{error}");
    }

    #[test]
    fn a_user_namespace_stands_for_the_users_it_maps() {
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(is_mapped(rootless, 1000));
        assert!(is_mapped(rootless, 165_535));
        assert!(!is_mapped(rootless, 1001));
        assert!(!is_mapped(rootless, 165_536));
        assert!(!is_mapped("         0          0 4294967295\n", 1000));
        assert!(!is_mapped("", 0));
    }

    #[test]
    fn a_template_has_one_place_for_the_user() {
        assert_eq!(
            split_template("unix:///a%%/%d/b").unwrap(),
            ("unix:///a%/".into(), "/b".into())
        );
        for template in ["unix:///a", "unix:///%d/%d", "unix:///%s", "unix:///%d%"] {
            assert_eq!(split_template(template), None, "{template}");
            assert!(Podman::new(None, Some(template)).is_err(), "{template}");
        }
    }
}
