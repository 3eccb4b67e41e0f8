//! The body of a stream that lasts until the server ends it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::Status;

use crate::api::status;

/// Passes an answer on until its time is over, and then ends it with a status that asks the client to open it again.
pub(super) struct EndlessBody {
    inner: tonic::body::Body,
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    ended: bool,
}

impl EndlessBody {
    pub(super) fn new(
        inner: tonic::body::Body,
        deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Self {
        Self {
            inner,
            deadline,
            ended: false,
        }
    }
}

impl Body for EndlessBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // What is there is sent first: an answer that ended by itself keeps its own status.
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            return Poll::Ready(frame);
        }
        if self.deadline.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.ended = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(
            status::closing()
                .add_header(&mut trailers)
                .ok()
                .map(|()| Ok(Frame::trailers(trailers))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }
}
