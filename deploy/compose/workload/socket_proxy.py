"""Lets its clients ask a container engine for containers and images, and for nothing else.

    socket_proxy.py ENGINE-SOCKET OWN-SOCKET

Who may open an engine's socket owns the machine. The agent's `docker` attestor needs two questions of it, so it can be given this socket
in its place: GET and HEAD below /containers and /images, and /version and /_ping. One request for each connection; a request that could
be read in two ways, with a body or with headers folded over lines, is refused.
"""

import os
import re
import socket
import socketserver
import sys

# An id or a name; of escapes only those of colon and at, and no dots alone: a path must mean to the engine what it means here.
WORD = r"(?!\.{1,2}[/?]|\.{1,2}$)(?:[A-Za-z0-9_.:@+-]|%3[Aa]|%40)+"
ALLOWED = re.compile(
    rf"(?:/v1\.\d+)?/(?:_ping|version|containers/json|images/json|containers/{WORD}/json|images/(?:{WORD}/){{1,8}}json)(?:\?[^\s#]*)?"
)
HEAD_LIMIT = 16 * 1024
TIMEOUT_SECONDS = 30


class Refused(Exception):
    """A request that the engine does not get to see."""


def read_head(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > HEAD_LIMIT:
            raise Refused("the head of the request is too long")
        block = connection.recv(4096)
        if not block:
            raise Refused("the request ends early")
        head += block
    head, _, rest = head.partition(b"\r\n\r\n")
    if rest:
        raise Refused("one request at a time")
    return head.decode("latin-1").split("\r\n")


def rewritten(lines):
    """The request as the engine gets it: nothing of the client's but method and path."""
    request, *headers = lines
    parts = request.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise Refused("not an HTTP/1 request")
    method, path, _ = parts
    if method not in ("GET", "HEAD") or not ALLOWED.fullmatch(path):
        raise Refused(f"{method} {path} is not allowed")
    for header in headers:
        name = header.partition(":")[0].strip().lower()
        if name in ("transfer-encoding", "upgrade") or (name == "content-length" and header.partition(":")[2].strip() != "0"):
            raise Refused(f"{name} is not allowed")
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1")


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.settimeout(TIMEOUT_SECONDS)
        try:
            request = rewritten(read_head(self.request))
        except (Refused, OSError) as refusal:
            print(f"refused: {refusal}", flush=True)
            body = f'{{"message":"{refusal}"}}'.replace("\\", "").encode()
            self.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n", body)
            return
        with socket.socket(socket.AF_UNIX) as engine:
            engine.settimeout(TIMEOUT_SECONDS)
            try:
                engine.connect(self.server.engine)
                engine.sendall(request)
                while block := engine.recv(65536):
                    self.request.sendall(block)
            except OSError as error:
                print(f"failed: {error}", flush=True)
                self.answer(b"HTTP/1.1 502 Bad Gateway\r\n", b"")

    def answer(self, head, body):
        try:
            self.request.sendall(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        except OSError:
            pass  # the client is gone


class Proxy(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    if len(sys.argv) != 3:
        print("usage: socket_proxy.py ENGINE-SOCKET OWN-SOCKET", file=sys.stderr)
        return 64
    _, engine, own = sys.argv
    if os.path.exists(own):
        os.unlink(own)
    os.umask(0o177)
    with Proxy(own, Handler) as proxy:
        proxy.engine = engine
        proxy.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
