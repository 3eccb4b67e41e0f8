"""Registers the lab's workloads and writes the trust bundle that the agent starts from. Running it again is harmless.

    register.py ADMIN-SOCKET BUNDLE-FILE
"""

import os
import ssl
import sys

import grpc

import protowire

TRUST_DOMAIN = "example.org"
NODE = "/lab-node"
# SPIFFE ID path, parent path, selectors, DNS names
ENTRIES = [
    # A node alias: every agent with this certificate subject is the node, however it is called.
    (NODE, "/spire/server", ["x509pop:subject:cn:lab-agent"], []),
    ("/agent_a", NODE, ["docker:label:org.example.workload:agent_a"], ["agent-a"]),
    ("/agent_b", NODE, ["docker:label:org.example.workload:agent_b"], ["agent-b"]),
]
OK, ALREADY_EXISTS = 0, 6


def identifier(path):
    return protowire.data(1, TRUST_DOMAIN) + protowire.data(2, path)


def entry(path, parent, selectors, dns_names):
    message = protowire.data(2, identifier(path)) + protowire.data(3, identifier(parent))
    for selector in selectors:
        kind, _, value = selector.partition(":")
        message += protowire.data(4, protowire.data(1, kind) + protowire.data(2, value))
    for dns_name in dns_names:
        message += protowire.data(10, dns_name)
    return message


def register(call):
    request = b"".join(protowire.data(1, entry(*item)) for item in ENTRIES)
    answer = protowire.decode(call("/spire.api.server.entry.v1.Entry/BatchCreateEntry", request))
    for item, result in zip(ENTRIES, answer[1], strict=True):
        status = protowire.decode(protowire.decode(result).get(1, [b""])[-1])
        code = status.get(1, [OK])[-1]
        if code not in (OK, ALREADY_EXISTS):
            raise ValueError(f"{item[0]} was not registered: {protowire.text(status, 2)}")
        print(f"spiffe://{TRUST_DOMAIN}{item[0]}: {'registered' if code == OK else 'registered already'}")


def write_bundle(call, path):
    bundle = protowire.decode(call("/spire.api.server.bundle.v1.Bundle/GetBundle", b""))
    authorities = [protowire.decode(item)[1][0] for item in bundle[2]]
    partial = path + ".partial"
    with open(partial, "w", encoding="ascii") as file:
        file.writelines(ssl.DER_cert_to_PEM_cert(authority) for authority in authorities)
    os.replace(partial, path)
    print(f"wrote {len(authorities)} authorities to {path}")


def main():
    if len(sys.argv) != 3:
        print("usage: register.py ADMIN-SOCKET BUNDLE-FILE", file=sys.stderr)
        return 64
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:

        def call(method, request):
            return channel.unary_unary(method)(request, timeout=10, wait_for_ready=True)

        try:
            register(call)
            write_bundle(call, sys.argv[2])
        except grpc.RpcError as error:
            print(f"register: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
        except (ValueError, KeyError, OSError) as error:
            print(f"register: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
