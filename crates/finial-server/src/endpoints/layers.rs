//! What happens to every call before and after its handler, in this order: a request id and a span, the method's row,
//! authorization, and the audit line at the end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;
use tracing::Instrument as _;
use uuid::Uuid;

use super::arriving::ArrivingBody;
use super::endless::EndlessBody;
use super::incoming::Waiting;
use crate::api::audit::AuditTrail;
use crate::api::limits::Limits;
use crate::api::status;
use crate::authorize::{Authorizer, Call, Caller, Row, table};

/// What the calls of one listener share.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The services of the listener.
    pub(crate) routes: Routes,
    /// Who may call what.
    pub(crate) authorizer: Arc<Authorizer>,
    /// The rate limits, shared by both listeners.
    pub(crate) limits: Arc<Limits>,
    /// Whether each call is written to the audit log.
    pub(crate) audit: bool,
    /// Whether this is the admin socket.
    pub(crate) local: bool,
    /// Cancelled when the server stops.
    pub(crate) closing: CancellationToken,
}

/// The calls of one connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionService {
    frame: Arc<Frame>,
    caller: Result<Caller, Unidentified>,
    /// Among whom each call takes a place, for as long as it lasts.
    crowd: Option<Waiting>,
}

/// A peer whose certificate was verified and yet names nobody; the text is part of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unidentified(pub(crate) String);

/// The longest an open-ended stream of one connection lasts, so that load spreads when servers are added.
const ENDLESS_LIMIT: Duration = Duration::from_hours(1);

impl ConnectionService {
    pub(crate) fn new(frame: Arc<Frame>, caller: Result<Caller, Unidentified>) -> Self {
        Self {
            frame,
            caller,
            crowd: None,
        }
    }

    /// Has each call take a place in `crowd`, and end when the place is needed for another.
    pub(crate) fn among(self, crowd: Waiting) -> Self {
        Self {
            crowd: Some(crowd),
            ..self
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let Some(row) =
            table::find(request.uri().path()).filter(|row| self.frame.local || !row.local_only)
        else {
            return self.unknown(request.uri().path());
        };
        let caller = match self.caller {
            Ok(caller) => caller,
            Err(Unidentified(text)) => return status::unauthenticated(&text).into_http(),
        };
        let request_id = Uuid::new_v4();
        let span = tracing::error_span!(
            "rpc",
            method = row.method,
            service = row.short_service(),
            request_id = %request_id,
            caller_addr = caller.addr().map(tracing::field::display),
            caller_id = caller.id().map(tracing::field::display),
            caller_uid = tracing::field::Empty,
            caller_gid = tracing::field::Empty,
            caller_path = tracing::field::Empty,
            authorized_as = tracing::field::Empty,
            authorized_via = tracing::field::Empty,
        );
        if self.frame.audit
            && let Caller::Local(peer) = &caller
        {
            span.record("caller_uid", peer.uid);
            span.record("caller_gid", peer.gid);
            if let Some(path) = &peer.path {
                span.record("caller_path", tracing::field::display(path.display()));
            }
        }
        let answer = serve(self.frame, caller, row, request_id, request).instrument(span);
        let Some(crowd) = self.crowd else {
            return answer.await;
        };
        let place = crowd.enter();
        let answer = tokio::select! {
            () = place.evicted() => return status::closing().into_http(),
            answer = answer => answer,
        };
        let evicted = Box::pin(async move { place.evicted().await });
        answer.map(|body| Body::new(EndlessBody::new(body, evicted)))
    }

    fn unknown(&self, path: &str) -> Response<Body> {
        let service = path
            .trim_start_matches('/')
            .rsplit_once('/')
            .map_or("", |(service, _)| service);
        let exists = table::has_service(service, self.frame.local);
        status::unknown_method(path, exists).into_http()
    }
}

async fn serve(
    frame: Arc<Frame>,
    caller: Caller,
    row: &'static Row,
    request_id: Uuid,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let authorized = match frame.authorizer.authorize(&caller, row).await {
        Ok(authorized) => authorized,
        Err(error) => return status::unauthorized(row, &error).into_http(),
    };
    let span = tracing::Span::current();
    span.record("authorized_as", authorized.role.as_str());
    span.record("authorized_via", authorized.via.as_str());
    let audit = AuditTrail::new(frame.audit);
    let call = Call::new(
        caller,
        authorized,
        row,
        request_id,
        Arc::clone(&frame.limits),
        audit.clone(),
        frame.closing.clone(),
    )
    .judged_by(Arc::clone(&frame.authorizer));
    request.extensions_mut().insert(call.clone());
    let request = request.map(|body| {
        if takes_stream(row) {
            ArrivingBody::of_stream(body, call.clone())
        } else {
            ArrivingBody::of_message(body, call.clone())
        }
    });
    let Ok(mut response) = frame.routes.clone().call(request).await;
    let failure = trailers_only(&response);
    if let Some(failure) = &failure
        && status::is_too_large(failure)
    {
        response = status::plain(Code::ResourceExhausted, failure.message()).into_http();
    }
    // The outcome of a stream shows when it ends; its handler writes the line.
    if failure.is_some() || !is_streaming(row) {
        audit.end(
            failure
                .as_ref()
                .map(|failure| (failure.code(), failure.message())),
        );
    }
    if row.endless {
        let deadline = endless_deadline(&call, &frame);
        return response.map(|body| Body::new(EndlessBody::new(body, deadline)));
    }
    response
}

/// Ends when a stream of `call` must: the server stops, the caller's SVID expires, or it has lasted long enough.
fn endless_deadline(call: &Call, frame: &Frame) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let closing = frame.closing.clone();
    let svid_life = match call.caller() {
        Caller::Local(_) => None,
        Caller::Tls(peer) => peer
            .svid
            .as_ref()
            .map(|svid| frame.authorizer.time_until(svid.not_after)),
    };
    let limit = super::incoming::jittered(ENDLESS_LIMIT);
    let life = svid_life.map_or(limit, |life| life.min(limit));
    Box::pin(async move {
        tokio::select! {
            () = closing.cancelled() => {}
            () = tokio::time::sleep(life) => {}
        }
    })
}

/// Whether the caller sends any number of messages.
fn takes_stream(row: &Row) -> bool {
    matches!(
        row.method,
        "AttestAgent" | "SyncAuthorizedEntries" | "Follow"
    )
}

fn is_streaming(row: &Row) -> bool {
    row.endless || matches!(row.method, "AttestAgent" | "SyncAuthorizedEntries")
}

/// The failure of a call that failed before its first message.
fn trailers_only(response: &Response<Body>) -> Option<Status> {
    response
        .headers()
        .get("grpc-status")
        .map(HeaderValue::as_bytes)
        .filter(|code| *code != b"0")?;
    Status::from_header_map(response.headers())
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_that_take_a_stream_are_those_of_the_protocol() {
        for method in finial_proto::descriptor::methods() {
            if let Some(row) = table::find(&method.full) {
                assert_eq!(takes_stream(row), method.client_streaming, "{}", row.path);
            }
        }
    }
}
