//! The body of a request on its way in.
//!
//! A call is authorized by its headers, and its message may come much later: until then the caller may have been banned, may have
//! lost its entry, or its SVID may have expired. So a body that was waited for ends only once the caller is authorized anew, and a
//! handler of a single message, which sees it when the body has ended, never acts for somebody who may not call any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use crate::api::status;
use crate::authorize::Call;

/// A request's body, of a call that was authorized by its headers.
pub(super) struct ArrivingBody<B> {
    inner: B,
    call: Call,
    /// When the whole message must be there.
    deadline: Pin<Box<dyn Future<Output = ()> + Send>>,
    state: State,
}

enum State {
    /// Nothing had to be waited for: what the headers were judged by still holds.
    Prompt,
    /// Something had.
    Late,
    /// All is there, and the caller is judged anew.
    Judging(Pin<Box<dyn Future<Output = Result<(), Status>> + Send>>),
    Ended,
}

/// How long a message may take, once its headers are there.
const MESSAGE_LIMIT: Duration = Duration::from_mins(1);

impl<B> ArrivingBody<B> {
    /// The body of a call that sends one message.
    pub(super) fn of_message(inner: B, call: Call) -> Self {
        Self::new(inner, call, Box::pin(tokio::time::sleep(MESSAGE_LIMIT)))
    }

    /// The body of a call that sends messages for as long as its handler asks for them.
    pub(super) fn of_stream(inner: B, call: Call) -> Self {
        Self::new(inner, call, Box::pin(std::future::pending()))
    }

    fn new(inner: B, call: Call, deadline: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self {
            inner,
            call,
            deadline,
            state: State::Prompt,
        }
    }
}

impl<B> Body for ArrivingBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if matches!(this.state, State::Prompt | State::Late) {
            match Pin::new(&mut this.inner).poll_frame(context) {
                Poll::Ready(Some(frame)) => {
                    return Poll::Ready(Some(
                        frame.map_err(|error| Status::from_error(error.into())),
                    ));
                }
                Poll::Ready(None) if matches!(this.state, State::Prompt) => {
                    this.state = State::Ended;
                }
                Poll::Ready(None) => {
                    let call = this.call.clone();
                    this.state = State::Judging(Box::pin(async move {
                        let judged = call.authorize_again().await;
                        judged.map_err(|error| status::unauthorized(call.row(), &error))
                    }));
                }
                Poll::Pending => {
                    this.state = State::Late;
                    if this.deadline.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    this.state = State::Ended;
                    return Poll::Ready(Some(Err(status::too_slow(
                        "the request did not arrive within 1m",
                    ))));
                }
            }
        }
        if let State::Judging(judged) = &mut this.state {
            let Poll::Ready(judged) = judged.as_mut().poll(context) else {
                return Poll::Pending;
            };
            this.state = State::Ended;
            if let Err(status) = judged {
                return Poll::Ready(Some(Err(status)));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        match self.state {
            State::Prompt => self.inner.is_end_stream(),
            State::Late | State::Judging(_) => false,
            State::Ended => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use uuid::Uuid;

    use super::*;
    use crate::api::audit::AuditTrail;
    use crate::api::limits::{LimitSwitches, Limits};
    use crate::authorize::{Authorized, Caller, LocalPeer, Role, Via, table};

    /// What arrives: something, or nothing yet.
    struct Pieces(VecDeque<Option<&'static str>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                Some(None) => {
                    if self.0.is_empty() {
                        self.0.push_back(None); // and never
                    } else {
                        context.waker().wake_by_ref();
                    }
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        }
    }

    /// A call that is refused when it is judged again.
    fn call() -> Call {
        Call::new(
            Caller::Local(LocalPeer::default()),
            Authorized {
                role: Role::Local,
                via: Via::Transport,
            },
            table::find("/spire.api.server.svid.v1.SVID/MintX509SVID").unwrap(),
            Uuid::nil(),
            Arc::new(Limits::new(LimitSwitches {
                attestation: false,
                signing: false,
            })),
            AuditTrail::new(false),
            CancellationToken::new(),
        )
    }

    async fn read(pieces: &[Option<&'static str>]) -> Result<String, Status> {
        let pieces = Pieces(pieces.iter().copied().collect());
        let mut body = ArrivingBody::of_message(pieces, call());
        let mut text = String::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            let piece = frame?.into_data().unwrap();
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        assert!(body.is_end_stream());
        Ok(text)
    }

    #[tokio::test]
    async fn a_message_that_is_there_is_not_judged_twice() {
        assert_eq!(read(&[Some("a"), Some("b")]).await.unwrap(), "ab");
    }

    #[tokio::test]
    async fn a_message_that_was_waited_for_is_judged_at_its_end() {
        let status = read(&[Some("a"), None, Some("b")]).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_is_given_up() {
        let status = read(&[Some("a"), None]).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
}
