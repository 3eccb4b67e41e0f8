//! A response stream whose handler runs while the stream is read, on the task of the call: it ends with the call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;
use tonic::Status;
use tracing::Instrument as _;

use crate::authorize::{AuthorizeError, Call};

/// Where a handler puts the messages of its answer. Waits while the client does not read.
pub(super) struct Replies<T>(mpsc::Sender<Result<T, Status>>);

/// The client has gone; there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub(super) struct ClientGone;

/// Why a message of an answer that lasts was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsent {
    /// There is nobody to answer.
    #[error(transparent)]
    Gone(#[from] ClientGone),
    /// The caller has ceased to be one who may be told.
    #[error("the caller may not be told any more")]
    Refused(#[source] AuthorizeError),
}

type Handler = Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>;

struct Driven<T> {
    handler: Option<Handler>,
    replies: mpsc::Receiver<Result<T, Status>>,
    outcome: Option<Status>,
}

/// Makes the answer of a handler that writes messages and returns how it ended.
pub(super) fn stream<T, F>(handler: impl FnOnce(Replies<T>) -> F) -> tonic::codegen::BoxStream<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, replies) = mpsc::channel(1);
    // The stream is read outside the call's span, and the handler's log lines belong inside.
    let handler = handler(Replies(sender)).in_current_span();
    Box::pin(Driven {
        handler: Some(Box::pin(handler)),
        replies,
        outcome: None,
    })
}

impl<T> Replies<T> {
    pub(super) async fn send(&self, message: T) -> Result<(), ClientGone> {
        self.0.send(Ok(message)).await.map_err(|_gone| ClientGone)
    }

    /// Sends a message of an answer that lasts. The caller is judged anew at the moment at which there is room: a client may let
    /// an answer wait for hours, and be somebody else's by then.
    pub(super) async fn send_to(&self, call: &Call, message: T) -> Result<(), Unsent> {
        let place = self.0.reserve().await.map_err(|_gone| ClientGone)?;
        call.authorize_again().await.map_err(Unsent::Refused)?;
        place.send(Ok(message));
        Ok(())
    }
}

impl<T> Stream for Driven<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(handler) = &mut self.handler
            && let Poll::Ready(result) = handler.as_mut().poll(context)
        {
            self.handler = None;
            self.outcome = result.err();
        }
        match self.replies.poll_recv(context) {
            Poll::Ready(Some(reply)) => Poll::Ready(Some(reply)),
            // The handler's sender is gone, and with it the handler.
            Poll::Ready(None) => Poll::Ready(self.outcome.take().map(Err)),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn messages_come_before_the_outcome() {
        let stream = stream(|replies: Replies<u8>| async move {
            for number in 0..5 {
                replies.send(number).await.unwrap();
            }
            Err(crate::api::status::invalid("enough"))
        });
        let all: Vec<_> = stream.collect().await;

        let numbers: Vec<_> = all.iter().flatten().copied().collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let end = all.last().unwrap().as_ref().unwrap_err();
        assert_eq!(end.message(), "enough");
    }

    #[tokio::test]
    async fn a_handler_that_ends_well_ends_the_stream() {
        let stream = stream(|replies: Replies<u8>| async move {
            replies.send(1).await.unwrap();
            Ok(())
        });
        let all: Vec<_> = stream.collect().await;
        assert_eq!(all.len(), 1);
    }
}
