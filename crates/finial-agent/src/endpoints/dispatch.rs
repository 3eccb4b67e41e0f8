//! What happens to a request before a service sees it.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::util::ServiceExt as _;

use crate::api::status::SECURITY_HEADER_MISSING;
use crate::api::workload::WorkloadApiServer;
use crate::workload::Caller;

/// What is served.
#[derive(Debug, Clone)]
pub(super) struct Services {
    pub(super) workload_api: Option<WorkloadApiServer>,
    pub(super) others: Routes,
}

/// The services of one connection. Every request learns who calls, and must bear the security header if it is for the Workload API.
#[derive(Debug, Clone)]
pub(super) struct Dispatch {
    services: Services,
    caller: Arc<Caller>,
}

impl Dispatch {
    pub(super) fn new(services: Services, caller: Arc<Caller>) -> Self {
        Self { services, caller }
    }

    pub(super) fn caller(&self) -> &Arc<Caller> {
        &self.caller
    }
}

impl Service<Request<Incoming>> for Dispatch {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let for_workload_api = request.uri().path().starts_with(WORKLOAD_API);
        if for_workload_api && !has_security_header(request.headers()) {
            let status = Status::invalid_argument(SECURITY_HEADER_MISSING);
            return Box::pin(ready(Ok(status.into_http())));
        }
        request.extensions_mut().insert(Arc::clone(&self.caller));
        match &self.services.workload_api {
            Some(api) if for_workload_api => Box::pin(api.clone().oneshot(request)),
            Some(_) | None => Box::pin(self.services.others.clone().oneshot(request)),
        }
    }
}

/// The header proves that a caller speaks this protocol on purpose: no browser or proxy can be talked into sending it.
fn has_security_header(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    values
        .next()
        .is_some_and(|value| value == SECURITY_HEADER_VALUE)
        && values.next().is_none()
}

/// The metadata key every call of the Workload API must bear, exactly once.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";
/// The only accepted value of [`SECURITY_HEADER`].
pub const SECURITY_HEADER_VALUE: &str = "true";
const WORKLOAD_API: &str = "/SpiffeWorkloadAPI/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_security_header_is_exactly_one_true() {
        let cases: [(&[&str], bool); 7] = [
            (&["true"], true),
            (&[], false),
            (&["true", "true"], false),
            (&["True"], false),
            (&["1"], false),
            (&["true,true"], false),
            (&["false", "true"], false),
        ];

        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(SECURITY_HEADER, value.parse().unwrap());
            }
            assert_eq!(has_security_header(&headers), expected, "{values:?}");
        }
    }
}
