"""Does to a Workload API socket what only a broken or hostile process would, and checks that good callers go on being served.

Prints one JSON line for each check. Exit code 1 if any failed; the reasons stand on stderr. Names of checks on the command line
run those alone.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import sys
import time

import grpc

METHOD = "/SpiffeWorkloadAPI/FetchX509SVID"
HEADER = ("workload.spiffe.io", "true")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class CheckFailed(Exception):
    """The agent did not answer as it must."""


def fetch(path, metadata, authority=None, method=METHOD, deadline=10.0):
    """The status of a call's first answer: OK means an identity came."""
    options = [] if authority is None else [("grpc.default_authority", authority)]
    options.append(("grpc.use_local_subchannel_pool", 1))  # a connection of its own
    with grpc.insecure_channel(f"unix:{path}", options) as channel:
        stream = channel.unary_stream(method)(b"", timeout=deadline, metadata=metadata)
        try:
            next(iter(stream))
        except StopIteration:
            raise CheckFailed("the stream ended without a message") from None
        except grpc.RpcError as error:
            return error.code(), error.details()
        stream.cancel()
        return grpc.StatusCode.OK, ""


def expect(answer, *codes, text=None):
    code, details = answer
    if code not in codes or (text is not None and details != text):
        wanted = " or ".join(code.name for code in codes)
        raise CheckFailed(f"expected {wanted}{'' if text is None else f' {text!r}'}, got {code.name} {details!r}")


def expect_served(arguments, **how):
    """A good call is answered: with an identity, or with the plain refusal of a process that has none."""
    expect(fetch(arguments.socket, [HEADER], **how), grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED)


def header_missing(arguments):
    expect(
        fetch(arguments.socket, []), grpc.StatusCode.INVALID_ARGUMENT, text="security header missing from request"
    )


def header_wrong(arguments):
    wrong = [[(HEADER[0], value)] for value in ("True", "TRUE", "1", "false", "", " true x", "true,true")]
    wrong += [[HEADER, HEADER], [HEADER, (HEADER[0], "false")], [("workload-spiffe-io", "true")]]
    for metadata in wrong:
        expect(
            fetch(arguments.socket, metadata),
            grpc.StatusCode.INVALID_ARGUMENT,
            text="security header missing from request",
        )


def header_every_method(arguments):
    for name in ("FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles", "FetchJWTSVID", "ValidateJWTSVID"):
        expect(fetch(arguments.socket, [], method=f"/SpiffeWorkloadAPI/{name}"), grpc.StatusCode.INVALID_ARGUMENT)


def unknown_method(arguments):
    for method in ("/SpiffeWorkloadAPI/Nonsense", "/no.such.Service/Method"):
        expect(fetch(arguments.socket, [HEADER], method=method), grpc.StatusCode.UNIMPLEMENTED)


def authority_of_c_core(arguments):
    """C-core sends the percent-encoded socket path; others send the bare path, a cluster name, or nonsense."""
    expect_served(arguments)
    for authority in ("localhost", arguments.socket, arguments.socket.replace("/", "%2F"), "spire_agent", "a%zz", "a:b:c"):
        expect_served(arguments, authority=authority)


def authority_many_calls(arguments):
    """One connection, many calls, growing metadata: the header table of HTTP/2 fills up and is evicted."""
    with grpc.insecure_channel(f"unix:{arguments.socket}") as channel:
        call = channel.unary_stream(METHOD)
        for number in range(50):
            metadata = [HEADER, (f"x-note-{number % 7}", "v" * (number * 20)), ("x-number", str(number))]
            stream = call(b"", timeout=10.0, metadata=metadata)
            try:
                next(iter(stream))
                stream.cancel()
            except grpc.RpcError as error:
                expect((error.code(), error.details()), grpc.StatusCode.PERMISSION_DENIED)


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


GARBAGE = {
    "random bytes": lambda dice: dice.randbytes(4096),
    "HTTP/1.1": lambda _: b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS hello": lambda dice: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(508),
    "half a preface": lambda _: PREFACE[:11],
    "preface alone": lambda _: PREFACE,
    "random frames": lambda dice: PREFACE + SETTINGS + dice.randbytes(2048),
    "huge frame": lambda _: PREFACE + SETTINGS + b"\xff\xff\xff\x01\x04\x00\x00\x00\x01" + b"\x00" * 1024,
    "random header block": lambda dice: PREFACE + SETTINGS + frame(1, 0x5, 1, dice.randbytes(200)),
    "endless integer": lambda _: PREFACE + SETTINGS + frame(1, 0x5, 1, b"\xff" * 64),
    "padding beyond the frame": lambda _: PREFACE + SETTINGS + frame(1, 0xD, 1, b"\xff\x82"),
    "headers on stream 0": lambda _: PREFACE + SETTINGS + frame(1, 0x5, 0, b"\x82\x86\x84"),
    "continuation of nothing": lambda _: PREFACE + SETTINGS + frame(9, 0x4, 1, b"\x82"),
    "continuations without end": lambda _: PREFACE
    + SETTINGS
    + frame(1, 0x1, 1, b"\x82")
    + b"".join(frame(9, 0x0, 1, b"\x00\x01x\x7f\x81\x01" + b"y" * 250) for _ in range(600)),
    "settings flood": lambda _: PREFACE + SETTINGS * 5000,
    "ping flood": lambda _: PREFACE + SETTINGS + frame(6, 0, 0, b"12345678") * 5000,
}


def garbage(arguments):
    dice = random.Random(arguments.seed)
    for round_number in range(arguments.rounds):
        for name, make in GARBAGE.items():
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as raw:
                raw.settimeout(0.2)
                raw.connect(arguments.socket)
                with contextlib.suppress(OSError):  # being cut off is a fine answer
                    raw.sendall(make(dice))
                    raw.recv(4096)
            if round_number == 0:
                try:
                    expect_served(arguments)
                except CheckFailed as error:
                    raise CheckFailed(f"after {name}: {error}") from None
    expect_served(arguments)


def idle_connections(arguments):
    with contextlib.ExitStack() as held:
        for number in range(arguments.connections):
            raw = held.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            raw.settimeout(5.0)
            raw.connect(arguments.socket)
            if number % 2:
                raw.sendall(PREFACE[: number % len(PREFACE)])
        started = time.monotonic()
        expect_served(arguments)
        waited = time.monotonic() - started
        if waited > 5.0:
            raise CheckFailed(f"with {arguments.connections} idle connections a good call took {waited:.1f} s")
    expect_served(arguments)


def rapid_reset(arguments):
    with grpc.insecure_channel(f"unix:{arguments.socket}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_stream(METHOD)
        for _ in range(500):
            call(b"", timeout=10.0, metadata=[HEADER]).cancel()
    expect_served(arguments)


def many_streams(arguments):
    """A thousand streams at once, each of them answered."""
    with grpc.insecure_channel(f"unix:{arguments.socket}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_stream(METHOD)
        streams = [call(b"", timeout=60.0, metadata=[HEADER]) for _ in range(arguments.streams)]
        for number, stream in enumerate(streams, 1):
            try:
                next(iter(stream))
                stream.cancel()
            except grpc.RpcError as error:
                try:
                    expect((error.code(), error.details()), grpc.StatusCode.PERMISSION_DENIED)
                except CheckFailed as failure:
                    raise CheckFailed(f"stream {number} of {arguments.streams}: {failure}") from None


CHECKS = [
    header_missing,
    header_wrong,
    header_every_method,
    unknown_method,
    authority_of_c_core,
    authority_many_calls,
    garbage,
    idle_connections,
    rapid_reset,
    many_streams,
]


def main():
    names = [check.__name__ for check in CHECKS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Workload API socket")
    parser.add_argument("--connections", type=int, default=300, help="idle connections to hold")
    parser.add_argument("--streams", type=int, default=300, help="streams to open at once")
    parser.add_argument("--rounds", type=int, default=3, help="how often all the garbage is sent")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="repeats a run")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(names)}")
    arguments = parser.parse_args()
    unknown = set(arguments.checks) - set(names)
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")

    failed = 0
    for check in CHECKS:
        if arguments.checks and check.__name__ not in arguments.checks:
            continue
        started = time.monotonic()
        try:
            check(arguments)
            reason = None
        except (CheckFailed, OSError) as error:
            reason = str(error)
            failed += 1
            print(f"hostile_client: {check.__name__} (seed {arguments.seed}): {reason}", file=sys.stderr)
        seconds = round(time.monotonic() - started, 3)
        print(json.dumps({"check": check.__name__, "ok": reason is None, "seconds": seconds}), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
