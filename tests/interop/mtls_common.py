"""What the two ends of the mutual TLS example share: their identity in the form grpcio wants, and how to know a peer."""

import asyncio
import contextlib
import os
import ssl
import tempfile
import threading

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import SpiffeId, X509Source

METHOD = "/finial.interop.Greeter/Greet"


def open_source(socket, timeout):
    """An X509Source that has its first identity."""
    return X509Source(socket_path=f"unix:{socket}", timeout_in_seconds=timeout)


def credentials_pem(context):
    """Private key and certificate chain of the default identity."""
    svid = context.default_svid
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.cert_chain)
    return key, chain


def roots_pem(context, peer_id):
    """The authorities of the peer's own trust domain; no other may vouch for it."""
    trust_domain = SpiffeId(peer_id).trust_domain
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(trust_domain)
    if bundle is None:
        raise LookupError(f"no bundle of trust domain {trust_domain.name}")
    return b"".join(authority.public_bytes(Encoding.PEM) for authority in bundle.x509_authorities)


def spiffe_id_of(certificate):
    """The SPIFFE ID of a verified leaf: its one URI."""
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"expected one URI in the peer's certificate, found {len(uris)}")
    return str(SpiffeId(uris[0]))


def dns_channel(context, target, peer_id, dns_name):
    """A channel whose server is known by a DNS name of its SVID: grpcio's own TLS can check that."""
    key, chain = credentials_pem(context)
    credentials = grpc.ssl_channel_credentials(roots_pem(context, peer_id), key, chain)
    return grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", dns_name)])


class SpiffeTunnel:
    """TLS that knows the server by its SPIFFE ID, for a channel that speaks plain HTTP/2 into a private Unix socket.

    grpcio checks DNS names only and gives Python no hook to look at the server's certificate, so TLS is Python's own. No byte of the
    caller's is sent before the peer's identity is checked.
    """

    def __init__(self, context, target, peer_id):
        self._peer_id = peer_id
        self._host, _, self._port = target.rpartition(":")
        self._folder = tempfile.TemporaryDirectory(prefix="interop-")  # mode 0700
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tls = self._tls_context(context)
        self.path = os.path.join(self._folder.name, "tunnel.sock")
        self.failure = None

    def _tls_context(self, context):
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False  # the SPIFFE ID is checked instead
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.set_alpn_protocols(["h2"])
        tls.load_verify_locations(cadata=roots_pem(context, self._peer_id).decode())
        file = os.path.join(self._folder.name, "svid.pem")
        with open(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as svid:
            svid.write(b"".join(credentials_pem(context)))
        tls.load_cert_chain(file)
        os.unlink(file)
        return tls

    def __enter__(self):
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(asyncio.start_unix_server(self._serve, self.path), self._loop)
        self._server = started.result(10)
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._folder.cleanup()

    async def _stop(self):
        self._server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader, writer):
        try:
            remote_reader, remote_writer = await asyncio.open_connection(self._host, int(self._port), ssl=self._tls)
            leaf = remote_writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            found = spiffe_id_of(x509.load_der_x509_certificate(leaf))
            if found != self._peer_id:
                remote_writer.close()
                raise ValueError(f"the server is {found}, not {self._peer_id}")
        except Exception as error:
            self.failure = str(error)
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # the tunnel is closing, and streams report a cancelled task loudly
            await asyncio.gather(pump(reader, remote_writer), pump(remote_reader, writer))


async def pump(reader, writer):
    with contextlib.suppress(OSError, ssl.SSLError):
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()
    writer.close()
