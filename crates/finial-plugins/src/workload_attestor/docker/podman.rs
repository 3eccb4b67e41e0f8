//! Podman, which has an engine socket for each user.

use std::path::PathBuf;

use finial_plugin::PluginError;

use super::engine::Engine;
use super::socket_path;

/// Where Podman listens: for root, and for everybody else.
#[derive(Debug)]
pub(super) struct Podman {
    rootful: PathBuf,
    /// What precedes and follows the user id.
    rootless: (String, String),
}

impl Podman {
    pub(super) fn new(socket: Option<&str>, template: Option<&str>) -> Result<Self, PluginError> {
        let template = template.unwrap_or(ROOTLESS_SOCKET);
        let rootless = split_template(template).ok_or_else(|| {
            PluginError::misconfigured(format!(
                "invalid podman_socket_path_template {template:?}: \
                 template must contain exactly one %d UID placeholder, and otherwise only escaped %%"
            ))
        })?;
        socket_path("podman_socket_path_template", &rootless.0)?;
        Ok(Self {
            rootful: socket_path("podman_socket_path", socket.unwrap_or(ROOTFUL_SOCKET))?,
            rootless,
        })
    }

    /// Returns the engine of a process in a Podman container, known by its cgroups.
    pub(super) fn engine_of(&self, cgroups: &[String]) -> Option<Engine> {
        let path = cgroups
            .iter()
            .find(|path| path.contains("libpod-") || path.contains("/libpod/"))?;
        let socket = match user_of(path) {
            Some(uid) => {
                let address = format!("{}{uid}{}", self.rootless.0, self.rootless.1);
                address
                    .strip_prefix("unix://")
                    .map_or_else(|| self.rootful.clone(), PathBuf::from)
            }
            None => self.rootful.clone(),
        };
        Some(Engine::new(socket, ""))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup_tells_whose_engine_to_ask() {
        let podman = Podman::new(None, None).unwrap();
        let socket = |path: &str| {
            let engine = podman.engine_of(&["/".to_owned(), path.to_owned()])?;
            Some(engine.socket().to_str().unwrap().to_owned())
        };

        assert_eq!(socket("/docker/77"), None);
        assert_eq!(
            socket("/machine.slice/libpod-77.scope/container").as_deref(),
            Some("/run/podman/podman.sock")
        );
        assert_eq!(
            socket("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-77.scope")
                .as_deref(),
            Some("/run/user/1000/podman/podman.sock")
        );
        assert_eq!(
            socket("/user.slice/user-99999999999.slice/libpod-77.scope").as_deref(),
            Some("/run/podman/podman.sock")
        );
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
