"""A gRPC client that proves who it is with an SVID, and talks only to the server it means to talk to.

The server is known by its SPIFFE ID, or, with `--dns`, by a DNS name of its SVID (an entry's `-dns`). Every call opens a
connection of its own with the newest identity. Prints one JSON line for each answer; 0 if all calls were answered.
"""

import argparse
import contextlib
import json
import sys
import time

import grpc

from mtls_common import METHOD, SpiffeTunnel, dns_channel, open_source


class Refused(Exception):
    """The call got no answer."""


@contextlib.contextmanager
def connect(context, arguments):
    """A channel to the server, and what there is to say if a call on it fails."""
    if arguments.dns:
        with dns_channel(context, arguments.target, arguments.expect, arguments.dns) as channel:
            yield channel, lambda: None
        return
    with SpiffeTunnel(context, arguments.target, arguments.expect) as tunnel:
        with grpc.insecure_channel(f"unix:{tunnel.path}", [("grpc.default_authority", "localhost")]) as channel:
            yield channel, lambda: tunnel.failure


def call(source, arguments, number):
    context = source.get_x509_context()
    message = arguments.message if arguments.count == 1 else f"{arguments.message} {number}"
    with connect(context, arguments) as (channel, failure):
        try:
            answer = channel.unary_unary(METHOD)(message.encode(), timeout=arguments.deadline)
        except grpc.RpcError as error:
            raise Refused(failure() or f"{error.code().name}: {error.details()}") from None
    own_id = str(context.default_svid.spiffe_id)
    expected = f"Hello {own_id}, your message '{message}' was successfully received and validated."
    if answer.decode() != expected:
        raise ValueError(f"expected {expected!r}, was answered {answer.decode()!r}")
    return {
        "at": time.time(),
        "call": number,
        "serial": format(context.default_svid.leaf.serial_number, "x"),
        "answer": answer.decode(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Workload API socket")
    parser.add_argument("--target", required=True, help="host and port of the server")
    parser.add_argument("--expect", required=True, help="the server's SPIFFE ID")
    parser.add_argument("--dns", help="check this DNS name in place of the SPIFFE ID")
    parser.add_argument("--message", default="ping")
    parser.add_argument("--count", type=int, default=1, help="number of calls; each but a single one adds its number to the message")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between calls")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds for each call")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the first identity")
    parser.add_argument("--refused", action="store_true", help="succeed if, and only if, every call is refused")
    arguments = parser.parse_args()

    try:
        source = open_source(arguments.socket, arguments.timeout)
    except Exception as error:
        print(f"mtls_client: no identity: {error}", file=sys.stderr)
        return 1
    failures = 0
    for number in range(1, arguments.count + 1):
        if number > 1:
            time.sleep(arguments.interval)
        try:
            answer = call(source, arguments, number)
        except Refused as refusal:
            if arguments.refused:
                print(json.dumps({"call": number, "refused": str(refusal)}), flush=True)
            else:
                print(f"mtls_client: call {number}: {refusal}", file=sys.stderr)
                failures += 1
        except Exception as error:
            print(f"mtls_client: call {number}: {error}", file=sys.stderr)
            failures += 1
        else:
            print(json.dumps(answer), flush=True)
            if arguments.refused:
                print(f"mtls_client: call {number} was answered, although it had to be refused", file=sys.stderr)
                failures += 1
    source.close()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
