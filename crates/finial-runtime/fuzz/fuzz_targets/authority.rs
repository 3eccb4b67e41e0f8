//! Whatever a client sends, however it is cut, comes out the same, and does not change when it is rewritten again.
#![no_main]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use finial_runtime::authority::AuthorityRewriter;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, ReadBuf};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Hands out so many bytes at a time.
struct Steps<'a> {
    input: &'a [u8],
    step: usize,
}

impl AsyncRead for Steps<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.step.min(self.input.len()).min(buf.remaining());
        let (now, later) = self.input.split_at(length);
        buf.put_slice(now);
        self.input = later;
        Poll::Ready(Ok(()))
    }
}

/// Returns what came out, and whether reading ended well.
fn rewrite(input: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut rewriter = AuthorityRewriter::new(Steps { input, step });
    let mut context = Context::from_waker(Waker::noop());
    let mut out = Vec::new();
    loop {
        let mut bytes = [0; 1024];
        let mut buf = ReadBuf::new(&mut bytes);
        match Pin::new(&mut rewriter).poll_read(&mut context, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (out, true),
            Poll::Ready(Ok(())) => out.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => return (out, false),
            Poll::Pending => unreachable!("the input is never pending"),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, frames)) = data.split_first() else {
        return;
    };
    let input = if first % 4 == 0 {
        frames.to_vec()
    } else {
        [PREFACE, frames].concat()
    };
    let (out, ended) = rewrite(&input, usize::MAX);
    let (out_in_steps, ended_in_steps) = rewrite(&input, usize::from(*first) + 1);
    assert_eq!(ended, ended_in_steps);
    if ended {
        assert_eq!(out, out_in_steps);
        assert_eq!(rewrite(&out, usize::MAX), (out.clone(), true));
    }
});
