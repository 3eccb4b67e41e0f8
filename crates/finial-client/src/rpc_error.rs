//! A failed call in the words gRPC's Go library uses, which command lines print and scripts match.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use tonic::{Code, Status};

/// A failed call: `rpc error: code = NotFound desc = …`.
#[derive(Debug, Clone)]
pub struct RpcError {
    code: Code,
    message: String,
}

impl RpcError {
    /// Describes `status`, which came over the channel to `target`.
    pub fn new(status: &Status, target: &Target) -> Self {
        let (code, message) = match (dial_error(status), status.code()) {
            (Some(error), _) => {
                let reason = target.describe(error);
                let message = format!(
                    "connection error: desc = \"transport: Error while dialing: {reason}\""
                );
                (Code::Unavailable, message)
            }
            // A code of this side's making: the connection ended in the middle of an answer.
            (None, Code::Unknown) if status.source().is_some() => {
                let message = "error reading from server: EOF".to_owned();
                (Code::Unavailable, message)
            }
            (None, code) => (code, status.message().to_owned()),
        };
        Self { code, message }
    }

    /// The code of the status.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The message of the status, or why it could not be asked for.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rpc error: code = {} desc = {}",
            code_name(self.code as i32),
            self.message
        )
    }
}

impl Error for RpcError {}

/// The Unix socket a command talks to, and how its errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    shown: String,
}

impl Target {
    /// A socket named by a URI: `unix ///tmp/api.sock`.
    pub fn uri(path: &Path) -> Self {
        Self::shown(path, "//")
    }

    /// A socket named by its path: `unix /tmp/api.sock`.
    pub fn path(path: &Path) -> Self {
        Self::shown(path, "")
    }

    fn shown(path: &Path, prefix: &str) -> Self {
        let shown = match path.to_string_lossy() {
            path if path.is_empty() => String::new(),
            path => format!("{prefix}{path}"),
        };
        Self { shown }
    }

    fn describe(&self, error: &io::Error) -> String {
        if self.shown.is_empty() {
            return "dial unix: missing address".to_owned();
        }
        let reason = match error.raw_os_error() {
            Some(code) => decapitalized(Errno::from_raw(code).desc()),
            None => error.to_string(),
        };
        format!("dial unix {}: connect: {reason}", self.shown)
    }
}

fn decapitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

/// The error of the operating system that kept the call from being made.
fn dial_error(status: &Status) -> Option<&io::Error> {
    let mut cause = Error::source(status);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error().is_some().then_some(error);
        }
        cause = error.source();
    }
    None
}

/// The name of a status code in Go's spelling; `Code(n)` for a number that is none.
pub fn code_name(code: i32) -> String {
    let name = match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown if code != Code::Unknown as i32 => return format!("Code({code})"),
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use finial_proto::pb::spire::api::server::entry::v1::CountEntriesRequest;
    use finial_proto::pb::spire::api::server::entry::v1::entry_client::EntryClient;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::connect;

    async fn call(path: &Path, target: &Target) -> String {
        let status = EntryClient::new(connect::unix(path))
            .count_entries(CountEntriesRequest::default())
            .await
            .unwrap_err();
        RpcError::new(&status, target).to_string()
    }

    #[tokio::test]
    async fn a_missing_socket_is_reported_as_go_reports_it() {
        let path = Path::new("/nonexistent/api.sock");
        assert_eq!(
            call(path, &Target::uri(path)).await,
            "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: \
             dial unix ///nonexistent/api.sock: connect: no such file or directory\""
        );
        assert!(
            call(path, &Target::path(path))
                .await
                .contains("dial unix /nonexistent/api.sock: connect:")
        );
        let empty = Path::new("");
        assert!(
            call(empty, &Target::uri(empty))
                .await
                .ends_with("dial unix: missing address\"")
        );
    }

    /// HTTP/2's SETTINGS, then HEADERS of stream 1: `:status: 200`, `content-type: application/grpc`.
    const HALF_AN_ANSWER: &[u8] =
        b"\0\0\0\x04\0\0\0\0\0\0\0\x14\x01\x04\0\0\0\x01\x88\x0f\x10\x10application/grpc";

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_reported_as_go_reports_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let breaks_off = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(HALF_AN_ANSWER).await.unwrap();
        };
        let target = Target::path(&path);
        let (said, ()) = tokio::join!(call(&path, &target), breaks_off);
        assert_eq!(
            said,
            "rpc error: code = Unavailable desc = error reading from server: EOF"
        );
    }

    #[test]
    fn codes_have_gos_names() {
        assert_eq!(code_name(1), "Canceled");
        assert_eq!(code_name(2), "Unknown");
        assert_eq!(code_name(99), "Code(99)");
        let status = Status::not_found("entry not found");
        assert_eq!(
            RpcError::new(&status, &Target::path(Path::new("/s"))).to_string(),
            "rpc error: code = NotFound desc = entry not found"
        );
    }
}
