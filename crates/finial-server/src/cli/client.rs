//! What every command that talks to a server shares: where it is, how it fails, how it prints.

use finial_client::connect;
use finial_client::rpc_error::{RpcError, Target};
use finial_proto::json::to_json;
use finial_runtime::cli::{Code, Console, FAILED, FlagSet, Flags, OK, Output, print_json, socket};
use finial_runtime::process;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use crate::config::DEFAULT_SOCKET_PATH;

const SOCKET_ENV: &str = "SPIRE_SERVER_PRIVATE_SOCKET";

/// The flags that say where the server is.
pub(super) fn flags(name: &'static str) -> FlagSet {
    socket::flags(FlagSet::new(name), DEFAULT_SOCKET_PATH)
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
    let env = |name: &str| std::env::var(name).ok();
    let result = socket::resolve(flags, DEFAULT_SOCKET_PATH, SOCKET_ENV, env)
        .map_err(anyhow::Error::from)
        .and_then(|path| {
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

/// Joins a count and a noun: `1 entry`, `2 entries`.
pub(super) fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

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
