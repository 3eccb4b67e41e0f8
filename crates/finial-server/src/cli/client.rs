//! What every command that talks to a server shares: where it is, how it fails, how it prints.

use std::path::PathBuf;

use anyhow::bail;
use finial_client::connect;
use finial_client::rpc_error::{RpcError, Target};
use finial_proto::json::to_json;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK, Output, print_json};
use finial_runtime::process;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use crate::config::DEFAULT_SOCKET_PATH;

const SOCKET_ENV: &str = "SPIRE_SERVER_PRIVATE_SOCKET";
const TEMPLATE_ENV: &str = "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE";

/// The flags that say where the server is.
pub(super) fn flags(name: &'static str) -> FlagSet {
    FlagSet::new(name)
        .string(
            "socketPath",
            DEFAULT_SOCKET_PATH,
            "Path to the server's API Unix domain socket",
        )
        .string(
            "instance",
            "",
            "Instance name for the socket template (env SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE)",
        )
}

/// A connection to the server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) channel: Channel,
    target: Target,
}

impl Server {
    /// Turns a failed call into an error that prints as scripts know it.
    pub(super) fn error(&self, status: &Status) -> RpcError {
        RpcError::new(status, &self.target)
    }
}

/// Runs a command against the server; an error is printed and is exit code 1.
pub(super) fn with_server(
    flags: &Flags,
    console: &mut Console,
    body: impl AsyncFnOnce(Server) -> anyhow::Result<Printed>,
) -> Code {
    let result = socket_path(flags, |name| std::env::var(name).ok()).and_then(|path| {
        process::block_on(async move {
            let server = Server {
                target: Target::uri(&path),
                channel: connect::unix(path),
            };
            body(server).await
        })?
    });
    finish(console, result)
}

/// What a command has to say. Text for standard output comes first.
#[derive(Debug, Default)]
pub(super) struct Printed {
    pub(super) out: String,
    pub(super) err: String,
    pub(super) json: Option<serde_json::Value>,
    /// What failed although the call did not.
    pub(super) failure: Option<String>,
}

impl Printed {
    /// Prints text.
    pub(super) fn text(out: impl Into<String>) -> Self {
        Self {
            out: out.into(),
            ..Self::default()
        }
    }

    /// Prints a message as JSON when that is asked for, and otherwise what `pretty` makes of it.
    ///
    /// In JSON, an item that failed is part of the answer and not a failure of the command.
    pub(super) fn message<M: Message>(
        flags: &Flags,
        name: &str,
        message: &M,
        pretty: impl FnOnce(&M) -> anyhow::Result<Self>,
    ) -> anyhow::Result<Self> {
        match Output::of(flags) {
            Output::Json => Ok(Self {
                json: Some(to_json(name, message)?),
                ..Self::default()
            }),
            Output::Pretty => pretty(message),
        }
    }
}

pub(super) fn finish(console: &mut Console, result: anyhow::Result<Printed>) -> Code {
    let failure = match result {
        Ok(printed) => {
            console.out(printed.out);
            console.err(printed.err);
            if let Some(json) = printed.json {
                print_json(console, json);
            }
            printed.failure
        }
        Err(error) => Some(format!("{error:#}")),
    };
    match failure {
        Some(failure) => {
            console.errln(format_args!("Error: {failure}"));
            FAILED
        }
        None => OK,
    }
}

/// Chooses the socket: a path that was given, an instance, the environment, the default.
fn socket_path(flags: &Flags, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<PathBuf> {
    let given = flags.string("socketPath");
    if given != DEFAULT_SOCKET_PATH {
        return Ok(given.into());
    }
    if let Some(instance) = flags.non_empty("instance") {
        let Some(template) = env(TEMPLATE_ENV).filter(|template| !template.is_empty()) else {
            bail!("you must define {TEMPLATE_ENV} to use the instance flag");
        };
        if !template.contains("%i") {
            bail!("failed to find %i in {TEMPLATE_ENV}");
        }
        return Ok(template.replace("%i", instance).into());
    }
    Ok(env(SOCKET_ENV)
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| given.to_owned())
        .into())
}

/// Joins a count and a noun: `1 entry`, `2 entries`.
pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(words: &[&str], env: &[(&str, &str)]) -> Result<String, String> {
        let words: Vec<_> = words.iter().map(ToString::to_string).collect();
        let flags = flags("entry show").parse(&words).unwrap();
        let env = |name: &str| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        };
        socket_path(&flags, env)
            .map(|path| path.display().to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_socket_is_chosen_in_spires_order() {
        let env = &[(SOCKET_ENV, "/env"), (TEMPLATE_ENV, "/run/%i/%i.sock")][..];
        for (words, env, expected) in [
            (&[][..], &[][..], Ok(DEFAULT_SOCKET_PATH)),
            (&[], env, Ok("/env")),
            (&["-instance", "a"], env, Ok("/run/a/a.sock")),
            (&["-instance", "a", "-socketPath", "/x"], env, Ok("/x")),
            (&["-socketPath", ""], env, Ok("")),
            (
                &["-instance", "a"],
                &[],
                Err(
                    "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag",
                ),
            ),
            (
                &["-instance", "a"],
                &[(TEMPLATE_ENV, "/x")],
                Err("failed to find %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE"),
            ),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(choose(words, env), expected, "{words:?}");
        }
    }

    #[test]
    fn an_item_that_failed_is_exit_code_1_and_said_last() {
        let mut console = Console::captured();
        let printed = Printed {
            out: "done\n".into(),
            err: "not done\n".into(),
            failure: Some("failed to do one or more".into()),
            json: None,
        };
        assert_eq!(finish(&mut console, Ok(printed)), FAILED);
        assert_eq!(
            console.into_captured(),
            (
                "done\n".into(),
                "not done\nError: failed to do one or more\n".into()
            )
        );
    }
}
