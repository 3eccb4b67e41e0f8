"""A gRPC server that proves who it is with an SVID, and answers only the peer it is told to answer.

Prints `{"listening": PORT}` once it can be called, then one JSON line for each call. The identity is looked up anew at every
handshake, so a rotation needs no restart. SIGTERM and SIGINT end it with 0.
"""

import argparse
import json
import signal
import sys
import threading
from concurrent import futures

import grpc
from cryptography import x509

from mtls_common import METHOD, credentials_pem, open_source, roots_pem, spiffe_id_of


class Greeter(grpc.GenericRpcHandler):
    """One method, bytes in and bytes out."""

    def __init__(self, accept):
        self._accept = accept

    def service(self, handler_call_details):
        if handler_call_details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._greet)

    def _greet(self, request, context):
        try:
            leaf = x509.load_pem_x509_certificate(context.auth_context()["x509_pem_cert"][0])
            peer = spiffe_id_of(leaf)
        except (KeyError, IndexError, ValueError, x509.ExtensionNotFound) as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, f"the caller has no SPIFFE ID: {error}")
        accepted = peer == self._accept
        print(json.dumps({"peer": peer, "accepted": accepted}), flush=True)
        if not accepted:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{peer} is not {self._accept}")
        message = request.decode("utf-8")
        return f"Hello {peer}, your message '{message}' was successfully received and validated.".encode()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Workload API socket")
    parser.add_argument("--listen", default="127.0.0.1:0", help="address and port; port 0 takes a free one")
    parser.add_argument("--accept", required=True, help="the SPIFFE ID of the one client that is answered")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the first identity")
    arguments = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    try:
        source = open_source(arguments.socket, arguments.timeout)
    except Exception as error:
        print(f"mtls_server: no identity: {error}", file=sys.stderr)
        return 1

    def configuration():
        context = source.get_x509_context()
        return grpc.ssl_server_certificate_configuration(
            [credentials_pem(context)], root_certificates=roots_pem(context, arguments.accept)
        )

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((Greeter(arguments.accept),))
    credentials = grpc.dynamic_ssl_server_credentials(
        configuration(), configuration, require_client_authentication=True
    )
    try:
        port = server.add_secure_port(arguments.listen, credentials)
        server.start()
    except Exception as error:
        print(f"mtls_server: cannot listen on {arguments.listen}: {error}", file=sys.stderr)
        source.close()
        return 1
    print(json.dumps({"listening": port}), flush=True)
    stop.wait()
    server.stop(grace=2).wait()
    source.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
