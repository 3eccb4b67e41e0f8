//! The Workload API over HTTP/2.
//!
//! `FetchX509SVID` is what thousands of streams wait in and what every process asks first, so it is served without the generated
//! code: all streams with the same update send the same bytes, and a waiting stream holds no buffers.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use finial_proto::pb::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use futures::future::BoxFuture;
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::compose::{has_identity, x509_frame};
use super::{Call, WorkloadApi};

/// `SpiffeWorkloadAPI` as a service for requests that bear their [`Caller`](crate::workload::Caller).
#[derive(Debug, Clone)]
pub struct WorkloadApiServer {
    api: WorkloadApi,
    generated: SpiffeWorkloadApiServer<WorkloadApi>,
}

impl WorkloadApiServer {
    /// Serves `api`.
    pub fn new(api: WorkloadApi) -> Self {
        Self {
            generated: SpiffeWorkloadApiServer::new(api.clone()),
            api,
        }
    }
}

impl Service<Request<Incoming>> for WorkloadApiServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if request.uri().path() != FETCH_X509_SVID || request.method() != Method::POST {
            return self.generated.call(request);
        }
        let api = self.api.clone();
        Box::pin(async move {
            // The request message is empty and says nothing.
            Ok(
                match api.open(request.extensions(), "FetchX509SVID").await {
                    Ok(call) => stream_svids(call),
                    Err(status) => status.into_http(),
                },
            )
        })
    }
}

fn stream_svids(call: Call) -> Response<Body> {
    let frames = stream::unfold(Some(call), async |call| {
        let mut call = call?;
        loop {
            let update = call.next().await;
            if !has_identity(&update) {
                return Some((Ok(end(&call.refuse())), None));
            }
            // Held until it is whole: a workload must never take an early part of its identities for all of them.
            if let Some(message) = x509_frame(&update) {
                call.log_fetched(&update);
                return Some((Ok::<_, Infallible>(Frame::data(message)), Some(call)));
            }
        }
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// Ends a stream with a status.
fn end(status: &Status) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut trailers) {
        tracing::error!(%error, "failed to encode a status");
    }
    Frame::trailers(trailers)
}

const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
