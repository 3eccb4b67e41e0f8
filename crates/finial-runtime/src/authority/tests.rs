use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinSet;

use super::*;

/// What the server behind the rewriter saw of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    authority: Option<String>,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
}

/// Serves until so many requests came, or the connection failed, and returns what arrived.
async fn serve(io: DuplexStream, expected: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    let Ok(mut connection) = h2::server::handshake(AuthorityRewriter::new(io)).await else {
        return seen;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        seen.push(observe(&request));
        answer(&mut respond);
        if seen.len() == expected {
            break;
        }
    }
    seen
}

fn observe<B>(request: &Request<B>) -> Seen {
    Seen {
        authority: request.uri().authority().map(ToString::to_string),
        path: request.uri().path().to_owned(),
        headers: request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect(),
    }
}

fn answer(respond: &mut SendResponse<Bytes>) {
    let response = Response::builder().status(StatusCode::OK).body(()).unwrap();
    respond.send_response(response, true).unwrap();
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_head(&mut out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
    out
}

fn string(text: &[u8]) -> Vec<u8> {
    assert!(text.len() < 127);
    let mut out = vec![u8::try_from(text.len()).unwrap()];
    out.extend_from_slice(text);
    out
}

/// `:method POST`, `:scheme http`, `:path /a`, and an `:authority` field as given.
fn block(authority: &[u8]) -> Vec<u8> {
    let mut out = vec![0x83, 0x86, 0x04];
    out.extend(string(b"/a"));
    out.extend_from_slice(authority);
    out
}

fn by_static_name(value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x41];
    out.extend(string(value));
    out
}

async fn send(frames: &[Vec<u8>], expected: usize) -> Vec<Seen> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(server, expected));
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(0x4, 0, 0, &[]));
    for piece in frames {
        bytes.extend_from_slice(piece);
    }
    client.write_all(&bytes).await.unwrap();
    let seen = tasks.join_next().await.unwrap().unwrap();
    drop(client); // only now: an end of the stream would discard what waits to be accepted
    seen
}

fn authorities(seen: &[Seen]) -> Vec<&str> {
    seen.iter()
        .map(|seen| seen.authority.as_deref().unwrap_or("none"))
        .collect()
}

#[tokio::test]
async fn whatever_a_client_calls_the_socket_the_server_reads_localhost() {
    let huffman_name = {
        let mut out = vec![0x40, 0x88];
        out.extend_from_slice(AUTHORITY_HUFFMAN_FORM);
        out.extend(string(b"/tmp/agent.sock"));
        out
    };
    let plain_name = {
        let mut out = vec![0x10];
        out.extend(string(b":authority"));
        out.extend(string(b"tmp%2Fagent.sock"));
        out
    };
    let cases = [
        by_static_name(b"tmp%2Fagent.sock"),
        by_static_name(b"/tmp/agent.sock"),
        by_static_name(b"a b c/%/\xc3\xa9"),
        by_static_name(b""),
        by_static_name(b"localhost"),
        by_static_name(b"example.org:443"),
        huffman_name,
        plain_name,
        vec![0x81],
    ];

    for case in cases {
        let seen = send(
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&case))],
            1,
        )
        .await;

        assert_eq!(authorities(&seen), ["localhost"], "{case:?}");
    }
}

#[tokio::test]
async fn an_indexed_authority_is_rewritten_too() {
    let first = block(&by_static_name(b"tmp%2Fagent.sock"));
    let second = [0x83, 0x86, 0x84, 0xbe]; // 62: the newest entry of the dynamic table

    let seen = send(
        &[
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &first),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, &second),
        ],
        2,
    )
    .await;

    assert_eq!(authorities(&seen), ["localhost", "localhost"]);
}

#[tokio::test]
async fn padding_priority_and_continuation_are_understood() {
    let whole = block(&by_static_name(b"tmp%2Fagent.sock"));
    let (head, tail) = whole.split_at(5);
    let mut padded = vec![3, 0, 0, 0, 0, 7];
    padded.extend_from_slice(head);
    padded.extend_from_slice(&[0, 0, 0]);

    let seen = send(
        &[
            frame(HEADERS, END_STREAM | PADDED | PRIORITY, 1, &padded),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, tail),
        ],
        1,
    )
    .await;

    assert_eq!(authorities(&seen), ["localhost"]);
    assert_eq!(seen[0].path, "/a");
}

#[tokio::test]
async fn a_block_that_continues_on_another_stream_ends_the_connection() {
    let whole = block(&by_static_name(b"x"));
    let (head, tail) = whole.split_at(5);

    let seen = send(
        &[
            frame(HEADERS, END_STREAM, 1, head),
            frame(CONTINUATION, END_HEADERS, 3, tail),
        ],
        1,
    )
    .await;

    assert_eq!(seen, []);
}

#[tokio::test]
async fn a_client_that_indexes_everything_is_followed_through_evictions() {
    let (client, server) = tokio::io::duplex(1 << 16);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(server, usize::MAX));
    let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);

    for round in 0..200_usize {
        let request = Request::builder()
            .method("POST")
            .uri(format!("http://localhost/{}", round % 7))
            .header("x-small", format!("{}", round % 5))
            .header("x-large", "v".repeat(round * 37 % 6000))
            .header(format!("x-name-{}", round % 90), "1")
            .body(())
            .unwrap();
        let expected = observe(&request);
        sender = sender.ready().await.unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        assert_eq!(
            response.await.unwrap().status(),
            StatusCode::OK,
            "{expected:?}"
        );
    }

    drop(sender);
    drop(driver);
    let seen = tasks.join_next().await.unwrap().unwrap();
    assert_eq!(seen.len(), 200);
    for (round, seen) in seen.iter().enumerate() {
        assert_eq!(seen.path, format!("/{}", round % 7));
        assert_eq!(seen.headers[1].1.len(), round * 37 % 6000);
        assert_eq!(seen.headers[2].0, format!("x-name-{}", round % 90));
    }
}

#[tokio::test]
async fn what_is_not_http2_passes_unchanged() {
    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut reader = AuthorityRewriter::new(&request[..]);

    let mut read = Vec::new();
    reader.read_to_end(&mut read).await.unwrap();

    assert_eq!(read, request);
}

#[test]
fn a_small_block_cannot_grow_without_bound() {
    let mut recoder = Recoder::default();
    let mut block = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e]; // "a" with a value of 4000 bytes, indexed
    block.extend_from_slice(&[b'v'; 4000]);
    block.extend_from_slice(&[0xbe; 1000]);

    assert!(matches!(
        recoder.recode(&block, BLOCK_LIMIT_BYTES),
        Err(HpackError::TooLarge)
    ));
}

#[test]
fn a_table_size_update_is_swallowed_and_bounds_the_table() {
    let mut recoder = Recoder::default();
    recoder
        .recode(&[0x40, 1, b'a', 1, b'1'], BLOCK_LIMIT_BYTES)
        .unwrap();

    let out = recoder.recode(&[0x20, 0x83], BLOCK_LIMIT_BYTES).unwrap();

    assert_eq!(out, [0x83]);
    assert!(matches!(
        recoder.recode(&[0xbe], BLOCK_LIMIT_BYTES),
        Err(HpackError::Index)
    ));
    let above_the_limit = [0x3f, 0xe2, 0x1f];
    assert!(matches!(
        recoder.recode(&above_the_limit, BLOCK_LIMIT_BYTES),
        Err(HpackError::TableSize)
    ));
}

/// Reads everything in steps of `step` bytes from a source that gives `chunk` bytes at once.
async fn read_in_steps(input: &[u8], chunk: usize, step: usize) -> io::Result<Vec<u8>> {
    let mut source = Chunks { rest: input, chunk };
    let mut reader = AuthorityRewriter::new(&mut source);
    let mut out = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        match reader.read(&mut buffer).await? {
            0 => return Ok(out),
            read => out.extend_from_slice(&buffer[..read]),
        }
    }
}

#[derive(Debug)]
struct Chunks<'a> {
    rest: &'a [u8],
    chunk: usize,
}

impl AsyncRead for Chunks<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, rest) = split(self.rest, self.chunk.min(buf.remaining()));
        buf.put_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

const AUTHORITY_HUFFMAN_FORM: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];

proptest! {
    #[test]
    fn a_random_block_never_panics(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut recoder = Recoder::default();
        for block in blocks {
            if recoder.recode(&block, BLOCK_LIMIT_BYTES).is_err() {
                break;
            }
        }
    }

    #[test]
    fn random_frames_never_panic_and_never_pass_an_error_as_an_end(
        pieces in prop::collection::vec((0_u8..11, any::<u8>(), 0_u32..4, prop::collection::vec(any::<u8>(), 0..60)), 0..12),
        chunk in 1_usize..40,
        step in 1_usize..40,
    ) {
        let mut input = PREFACE.to_vec();
        for (kind, flags, stream, payload) in pieces {
            input.extend(frame(kind, flags, stream, &payload));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if let Err(error) = runtime.block_on(read_in_steps(&input, chunk, step)) {
            prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn how_the_bytes_are_cut_changes_nothing(chunk in 1_usize..80, step in 1_usize..80) {
        let mut input = PREFACE.to_vec();
        input.extend(frame(0x4, 0, 0, &[0, 3, 0, 0, 0, 100]));
        input.extend(frame(HEADERS, END_HEADERS, 1, &block(&by_static_name(b"tmp%2Fagent.sock"))));
        input.extend(frame(0x0, END_STREAM, 1, &[7; 300]));
        input.extend(frame(0x6, 0, 0, &[1; 8]));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(read_in_steps(&input, usize::MAX, 4096)).unwrap();
        let cut = runtime.block_on(read_in_steps(&input, chunk, step)).unwrap();
        prop_assert_eq!(cut, whole);
    }
}
