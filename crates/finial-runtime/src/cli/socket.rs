//! Which socket a command talks to.

use std::path::PathBuf;

use thiserror::Error;

use super::{FlagSet, Flags};

/// The name of the flag with the path.
const PATH: &str = "socketPath";
/// The name of the flag with the instance.
const INSTANCE: &str = "instance";

/// Why no socket could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SocketError {
    /// An instance is given, but nothing to put it in.
    #[error("you must define {variable} to use the instance flag")]
    NoTemplate {
        /// The environment variable.
        variable: String,
    },
    /// The template has no place for the instance.
    #[error("failed to find %i in {variable}")]
    NoPlace {
        /// The environment variable.
        variable: String,
    },
}

/// Adds the flags that choose the socket.
#[must_use]
pub fn flags(set: FlagSet, default: &str) -> FlagSet {
    set.string(PATH, default, "Path to the API Unix domain socket")
        .string(
            INSTANCE,
            "",
            "Instance name for the socket template of the environment",
        )
}

/// Chooses the socket: a path that was given, an instance in the template, the environment, the default.
///
/// `variable` names the environment variable with a path; with `_TEMPLATE` after it, the one with the template.
pub fn resolve(
    flags: &Flags,
    default: &str,
    variable: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, SocketError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let mut chosen = env(variable);
    if let Some(instance) = flags.non_empty(INSTANCE) {
        let variable = format!("{variable}_TEMPLATE");
        let Some(template) = env(&variable) else {
            return Err(SocketError::NoTemplate { variable });
        };
        if !template.contains("%i") {
            return Err(SocketError::NoPlace { variable });
        }
        chosen = Some(template.replace("%i", instance));
    }
    Ok(match (flags.string(PATH), chosen) {
        (path, Some(chosen)) if path == default => chosen.into(),
        (path, _) => path.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "/tmp/default.sock";

    fn choose(words: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let flags = flags(FlagSet::new("x"), DEFAULT).parse(&words).unwrap();
        let env = |name: &str| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        resolve(&flags, DEFAULT, "SOCKET", env)
            .map(|path| path.display().to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_socket_is_chosen_in_spires_order() {
        let env = &[("SOCKET", "/env"), ("SOCKET_TEMPLATE", "/run/%i/%i.sock")][..];
        for (words, env, expected) in [
            (&[][..], &[][..], Ok(DEFAULT)),
            (&[], env, Ok("/env")),
            (&["-instance", "a"], env, Ok("/run/a/a.sock")),
            (&["-instance", "a", "-socketPath", "/x"], env, Ok("/x")),
            (&["-socketPath", ""], env, Ok("")),
            (
                &["-instance", "a"],
                &[],
                Err("you must define SOCKET_TEMPLATE to use the instance flag"),
            ),
            (
                &["-instance", "a"],
                &[("SOCKET_TEMPLATE", "/x")],
                Err("failed to find %i in SOCKET_TEMPLATE"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(choose(words, env), expected, "{words:?}");
        }
    }
}
