//! Makes the `:authority` of HTTP/2 requests acceptable on Unix sockets.
//!
//! A gRPC client that dials a Unix socket has no host to name. C-core (Python, C++, Ruby, PHP) sends the percent-encoded path of the
//! socket, Java the bare path, and the `h2` crate resets every stream whose `:authority` is not one of RFC 3986. [`AuthorityRewriter`]
//! stands between the socket and the HTTP/2 server: all frames pass unchanged but HEADERS and CONTINUATION. Those are gathered into
//! whole blocks and encoded again with `:authority` set to `localhost`.
//!
//! What must stay true: the server behind the rewriter never sees a dynamic table (everything is written as literals or static
//! indices), so the client's table lives here alone; and memory is bounded by [`BLOCK_LIMIT_BYTES`] whatever a client sends.

mod hpack;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use hpack::{HpackError, Recoder};

/// A byte stream whose inbound HTTP/2 requests all carry `:authority: localhost`.
///
/// Streams that do not open with the HTTP/2 preface pass as they are. Reading fails with [`io::ErrorKind::InvalidData`] once a header
/// block cannot be decoded, since the table of the client is lost then.
#[derive(Debug)]
pub struct AuthorityRewriter<S> {
    io: S,
    frames: Frames,
    /// Bytes that are ready to be read, from `taken` on.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> AuthorityRewriter<S> {
    /// Wraps a stream nothing has been read from yet.
    pub fn new(io: S) -> Self {
        Self {
            io,
            frames: Frames::default(),
            ready: Vec::new(),
            taken: 0,
        }
    }

    /// Returns the wrapped stream.
    pub fn get_ref(&self) -> &S {
        &self.io
    }

    /// Moves what is ready into `buf` and tells whether there was anything.
    fn drain(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let waiting = self.ready.get(self.taken..).unwrap_or_default();
        if waiting.is_empty() {
            return false;
        }
        let (now, later) = waiting.split_at(waiting.len().min(buf.remaining()));
        buf.put_slice(now);
        if later.is_empty() {
            self.ready = Vec::new(); // most connections never need it again
            self.taken = 0;
        } else {
            self.taken += now.len();
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityRewriter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.drain(buf) {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let read = buf.filled().get(before..).unwrap_or_default();
            if read.is_empty() || this.frames.pass(read.len()) {
                return Poll::Ready(Ok(()));
            }
            let fed = this.frames.feed(read, &mut this.ready);
            buf.set_filled(before);
            fed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityRewriter<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Where the reader stands in the stream of frames.
#[derive(Debug)]
enum Position {
    /// So many bytes of the connection preface were seen.
    Preface(usize),
    /// Not HTTP/2, or nothing this module understands: hands off.
    Opaque,
    /// Inside the nine bytes that open a frame.
    FrameHead {
        head: [u8; FRAME_HEAD_LENGTH],
        have: usize,
    },
    /// Inside a payload that passes unchanged.
    Payload { left: usize },
    /// Inside the payload of a HEADERS or CONTINUATION frame.
    Gather { frame: FrameHead, left: usize },
}

#[derive(Debug)]
struct Frames {
    position: Position,
    block: Option<Block>,
    recoder: Recoder,
    payload: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            position: Position::Preface(0),
            block: None,
            recoder: Recoder::default(),
            payload: Vec::new(),
        }
    }
}

impl Frames {
    /// Accounts for `length` bytes that need no look, and tells whether that was so.
    fn pass(&mut self, length: usize) -> bool {
        match &mut self.position {
            Position::Opaque => true,
            Position::Payload { left } if *left > length => {
                *left -= length;
                true
            }
            Position::Preface(_)
            | Position::FrameHead { .. }
            | Position::Payload { .. }
            | Position::Gather { .. } => false,
        }
    }

    fn feed(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        while !input.is_empty() {
            input = match &mut self.position {
                Position::Opaque => {
                    out.extend_from_slice(input);
                    &[]
                }
                Position::Preface(seen) => {
                    let expected = PREFACE.get(*seen..).unwrap_or_default();
                    let (now, rest) = input.split_at(input.len().min(expected.len()));
                    out.extend_from_slice(now);
                    *seen += now.len();
                    if !expected.starts_with(now) {
                        self.position = Position::Opaque;
                    } else if *seen == PREFACE.len() {
                        self.position = FRAME_START;
                    }
                    rest
                }
                Position::FrameHead { head, have } => {
                    let wanted = head.get_mut(*have..).unwrap_or_default();
                    let (now, rest) = input.split_at(input.len().min(wanted.len()));
                    for (to, from) in wanted.iter_mut().zip(now) {
                        *to = *from;
                    }
                    *have += now.len();
                    if *have == FRAME_HEAD_LENGTH {
                        let bytes = *head;
                        self.open(FrameHead::parse(&bytes), &bytes, out)?;
                    }
                    rest
                }
                Position::Payload { left } => {
                    let (now, rest) = input.split_at(input.len().min(*left));
                    out.extend_from_slice(now);
                    *left -= now.len();
                    if *left == 0 {
                        self.position = FRAME_START;
                    }
                    rest
                }
                Position::Gather { frame, left } => {
                    let (now, rest) = input.split_at(input.len().min(*left));
                    self.payload.extend_from_slice(now);
                    *left -= now.len();
                    if *left == 0 {
                        let frame = *frame;
                        self.close(frame, out)?;
                    }
                    rest
                }
            };
        }
        Ok(())
    }

    /// Decides what becomes of a frame whose head was read.
    fn open(
        &mut self,
        frame: FrameHead,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let expected = match (&self.block, frame.kind) {
            (None, HEADERS) => true,
            // A CONTINUATION nobody waits for passes: the server knows how to refuse it.
            (None, _) => false,
            (Some(block), CONTINUATION) if block.stream == frame.stream => true,
            (Some(_), _) => return Err(FrameError::Interrupted),
        };
        if !expected {
            out.extend_from_slice(bytes);
            self.position = if frame.length == 0 {
                FRAME_START
            } else {
                Position::Payload { left: frame.length }
            };
            return Ok(());
        }
        let (gathered, frames) = self
            .block
            .as_ref()
            .map_or((0, 0), |block| (block.fragment.len(), block.frames));
        if gathered + frame.length > BLOCK_LIMIT_BYTES || frames >= CONTINUATION_LIMIT {
            return Err(FrameError::BlockTooLarge);
        }
        self.payload.clear();
        if frame.length == 0 {
            return self.close(frame, out);
        }
        self.position = Position::Gather {
            frame,
            left: frame.length,
        };
        Ok(())
    }

    /// Takes a gathered frame in and writes the block once it is complete.
    fn close(&mut self, frame: FrameHead, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let payload = std::mem::take(&mut self.payload);
        let mut block = match self.block.take() {
            Some(mut block) => {
                block.fragment.extend_from_slice(&payload);
                block
            }
            None => Block::from_headers(frame, &payload)?,
        };
        block.frames += 1;
        self.position = FRAME_START;
        if frame.flags & END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        let fragment = self.recoder.recode(&block.fragment, BLOCK_LIMIT_BYTES)?;
        block.write(&fragment, out);
        Ok(())
    }
}

/// A header block on its way: the HEADERS frame without padding, and the fragments that followed.
#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: u8,
    priority: Option<[u8; PRIORITY_LENGTH]>,
    fragment: Vec<u8>,
    frames: usize,
}

impl Block {
    fn from_headers(frame: FrameHead, payload: &[u8]) -> Result<Self, FrameError> {
        let mut rest = payload;
        if frame.flags & PADDED != 0 {
            let (padding, after) = rest.split_first().ok_or(FrameError::Padding)?;
            let content = after
                .len()
                .checked_sub(usize::from(*padding))
                .ok_or(FrameError::Padding)?;
            rest = after.get(..content).unwrap_or_default();
        }
        let mut priority = None;
        if frame.flags & PRIORITY != 0 {
            let (bytes, after) = rest.split_first_chunk().ok_or(FrameError::Priority)?;
            priority = Some(*bytes);
            rest = after;
        }
        Ok(Self {
            stream: frame.stream,
            end_stream: frame.flags & END_STREAM,
            priority,
            fragment: rest.to_vec(),
            frames: 0,
        })
    }

    fn write(&self, fragment: &[u8], out: &mut Vec<u8>) {
        let priority = self.priority.as_ref().map_or(&[][..], |bytes| bytes);
        let (mut now, mut later) = split(fragment, FRAME_LIMIT_BYTES - priority.len());
        let mut flags = self.end_stream | if self.priority.is_some() { PRIORITY } else { 0 };
        if later.is_empty() {
            flags |= END_HEADERS;
        }
        out.reserve(fragment.len() + priority.len() + FRAME_HEAD_LENGTH);
        write_head(out, priority.len() + now.len(), HEADERS, flags, self.stream);
        out.extend_from_slice(priority);
        out.extend_from_slice(now);
        while !later.is_empty() {
            (now, later) = split(later, FRAME_LIMIT_BYTES);
            let flags = if later.is_empty() { END_HEADERS } else { 0 };
            write_head(out, now.len(), CONTINUATION, flags, self.stream);
            out.extend_from_slice(now);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    /// With the reserved bit, so that a frame is told from its neighbour exactly as it was sent.
    stream: u32,
}

impl FrameHead {
    fn parse(bytes: &[u8; FRAME_HEAD_LENGTH]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
        }
    }
}

/// Why a stream of frames could not be followed any further.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error("header block was interrupted by another frame")]
    Interrupted,
    #[error(
        "header block is larger than {BLOCK_LIMIT_BYTES} bytes or has more than {CONTINUATION_LIMIT} frames"
    )]
    BlockTooLarge,
    #[error("padding of a HEADERS frame is longer than the frame")]
    Padding,
    #[error("HEADERS frame is too short for its priority")]
    Priority,
    #[error("failed to decode a header block")]
    Hpack(#[from] HpackError),
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(at))
}

fn write_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    // `length` is at most FRAME_LIMIT_BYTES: three bytes hold it.
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend(length.into_iter().skip(1));
    out.push(kind);
    out.push(flags);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// The largest header block that is taken from a client or written to the server.
pub const BLOCK_LIMIT_BYTES: usize = 64 * 1024;

/// Frames of one block. A block of [`BLOCK_LIMIT_BYTES`] needs five; the rest is patience with odd clients.
const CONTINUATION_LIMIT: usize = 64;
/// RFC 9113 §4.2: what every peer accepts.
const FRAME_LIMIT_BYTES: usize = 16_384;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_LENGTH: usize = 9;
const FRAME_START: Position = Position::FrameHead {
    head: [0; FRAME_HEAD_LENGTH],
    have: 0,
};
const PRIORITY_LENGTH: usize = 5;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

#[cfg(test)]
mod tests;
