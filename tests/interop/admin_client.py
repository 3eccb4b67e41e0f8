"""Calls the server's admin API over its Unix socket with grpcio, whose C core sends the socket's path as `:authority`.

    admin_client.py --socket PATH list               the registration entries, one JSON line each
    admin_client.py --socket PATH create ID PARENT TYPE:VALUE...
    admin_client.py --socket PATH bundle             the authorities of the trust domain
    admin_client.py --socket PATH health             SERVING or not

Messages are put together by hand from field numbers: nothing of ours takes part but the socket.
"""

import argparse
import json
import sys

import grpc

import protowire

ENTRY = "/spire.api.server.entry.v1.Entry/"


def spiffe_id(message):
    fields = protowire.decode(message)
    return f"spiffe://{protowire.text(fields, 1)}{protowire.text(fields, 2)}"


def encode_id(identifier):
    trust_domain, slash, path = identifier.removeprefix("spiffe://").partition("/")
    return protowire.data(1, trust_domain) + protowire.data(2, slash + path)


def selector(message):
    fields = protowire.decode(message)
    return f"{protowire.text(fields, 1)}:{protowire.text(fields, 2)}"


def entry(message):
    fields = protowire.decode(message)
    return {
        "id": protowire.text(fields, 1),
        "spiffe_id": spiffe_id(fields.get(2, [b""])[-1]),
        "parent_id": spiffe_id(fields.get(3, [b""])[-1]),
        "selectors": sorted(selector(item) for item in fields.get(4, [])),
        "revision_number": fields.get(11, [0])[-1],
    }


def list_entries(call, arguments):
    """Pages through all entries, a hundred at a time."""
    token = b""
    found = []
    while True:
        request = protowire.number(3, 100) + protowire.data(4, token)
        answer = protowire.decode(call(ENTRY + "ListEntries", request))
        found.extend(entry(item) for item in answer.get(1, []))
        token = answer.get(2, [b""])[-1]
        if not token or not answer.get(1):
            break
    for item in found:
        print(json.dumps(item, sort_keys=True))
    count = protowire.decode(call(ENTRY + "CountEntries", b"")).get(1, [0])[-1]
    if count != len(found):
        raise ValueError(f"CountEntries says {count}, ListEntries gave {len(found)}")
    if arguments.expect is not None and len(found) != arguments.expect:
        raise ValueError(f"expected {arguments.expect} entries, found {len(found)}")


def create_entry(call, arguments):
    if len(arguments.words) < 3:
        raise ValueError("create needs a SPIFFE ID, a parent ID and at least one selector")
    identifier, parent, *selectors = arguments.words
    new = protowire.data(2, encode_id(identifier)) + protowire.data(3, encode_id(parent))
    for item in selectors:
        kind, _, value = item.partition(":")
        new += protowire.data(4, protowire.data(1, kind) + protowire.data(2, value))
    answer = protowire.decode(call(ENTRY + "BatchCreateEntry", protowire.data(1, new)))
    result = protowire.decode(answer[1][0])
    status = protowire.decode(result.get(1, [b""])[-1])
    code = status.get(1, [0])[-1]
    if code not in (0, 6):  # OK; ALREADY_EXISTS gives the entry that is there
        raise ValueError(f"not created: code {code}: {protowire.text(status, 2)}")
    print(json.dumps({"code": code, "entry": entry(result[2][0])}, sort_keys=True))


def show_bundle(call, _arguments):
    bundle = protowire.decode(call("/spire.api.server.bundle.v1.Bundle/GetBundle", b""))
    authorities = bundle.get(2, [])
    if not authorities:
        raise ValueError("the bundle has no X.509 authority")
    sizes = [len(protowire.decode(item)[1][0]) for item in authorities]
    print(json.dumps({"trust_domain": protowire.text(bundle, 1), "x509_authorities_der_bytes": sizes}))


def check_health(call, _arguments):
    status = protowire.decode(call("/grpc.health.v1.Health/Check", b"")).get(1, [0])[-1]
    print(json.dumps({"status": status, "serving": status == 1}))
    if status != 1:
        raise ValueError(f"not serving: status {status}")


COMMANDS = {"list": list_entries, "create": create_entry, "bundle": show_bundle, "health": check_health}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", required=True, help="path of the server's admin socket")
    parser.add_argument("--deadline", type=float, default=10.0, help="seconds for each call")
    parser.add_argument("--expect", type=int, help="fail unless `list` finds this many entries")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    with grpc.insecure_channel(f"unix:{arguments.socket}") as channel:

        def call(method, request):
            return channel.unary_unary(method)(request, timeout=arguments.deadline)

        try:
            COMMANDS[arguments.command](call, arguments)
        except grpc.RpcError as error:
            print(f"admin_client: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
        except (ValueError, KeyError, IndexError) as error:
            print(f"admin_client: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
