//! The body of an answer that lasts until the server ends it.

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
        // First of all: an answer that never runs dry, or that waited long for a slow reader, must not outlive its time.
        if self.deadline.as_mut().poll(context).is_pending() {
            return Pin::new(&mut self.inner).poll_frame(context);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// A body that always has more.
    struct Plenty;

    impl Body for Plenty {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"more")))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_has_always_more_ends_with_its_time() {
        let life = Duration::from_secs(5);
        let mut body = EndlessBody::new(tonic::body::Body::new(Plenty), Box::pin(sleep(life)));
        let start = Instant::now();
        let trailers = loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            match frame.unwrap().unwrap().into_trailers() {
                Ok(trailers) => break trailers,
                // The reader takes its time.
                Err(_data) => sleep(Duration::from_secs(2)).await,
            }
            assert!(start.elapsed() <= life * 2, "the answer goes on");
        };

        assert_eq!(trailers.get("grpc-status").unwrap(), "14");
        assert!(body.is_end_stream());
    }
}
