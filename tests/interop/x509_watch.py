"""Follows the X.509 identity of this process with PyPI `spiffe`, and checks every update as a careful user would.

Prints one JSON line for each update and ends with 0 after the wanted number of rotations. Anything that is not as it must be
is one line on stderr and exit code 1.
"""

import argparse
import datetime
import json
import queue
import sys
import time

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from spiffe import WorkloadApiClient


class CheckFailed(Exception):
    """An update that a workload must not be given."""


def check(condition, message):
    if not condition:
        raise CheckFailed(message)


def extension(certificate, oid):
    try:
        return certificate.extensions.get_extension_for_oid(oid)
    except x509.ExtensionNotFound:
        return None


def key_id(certificate):
    found = extension(certificate, ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    return found.value.digest.hex() if found else None


def public_bytes(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check_leaf(leaf, spiffe_id):
    names = extension(leaf, ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    check(names is not None, "the leaf has no subject alternative name")
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    check(uris == [spiffe_id], f"the leaf's URIs are {uris}, not the one {spiffe_id}")

    constraints = extension(leaf, ExtensionOID.BASIC_CONSTRAINTS)
    check(constraints is not None and constraints.critical, "the leaf's basic constraints are absent or not critical")
    check(not constraints.value.ca, "the leaf is a CA")

    usage = extension(leaf, ExtensionOID.KEY_USAGE)
    check(usage is not None and usage.critical, "the leaf's key usage is absent or not critical")
    check(usage.value.digital_signature, "the leaf may not sign")
    check(not usage.value.key_cert_sign and not usage.value.crl_sign, "the leaf may sign certificates")

    purposes = extension(leaf, ExtensionOID.EXTENDED_KEY_USAGE)
    check(purposes is not None, "the leaf has no extended key usage")
    for purpose in (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH):
        check(purpose in purposes.value, f"the leaf lacks the purpose {purpose}")


def check_chain(chain, authorities):
    for certificate, issuer in zip(chain, chain[1:]):
        certificate.verify_directly_issued_by(issuer)
    for authority in authorities:
        try:
            chain[-1].verify_directly_issued_by(authority)
            return
        except Exception:  # another authority may have signed it
            continue
    raise CheckFailed("no authority of the bundle signed the chain")


def check_svid(svid, bundles):
    """Returns what is printed about a good identity."""
    spiffe_id = str(svid.spiffe_id)
    bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    check(bundle is not None, f"{spiffe_id} came without the bundle of its trust domain")
    check_leaf(svid.leaf, spiffe_id)
    check_chain(svid.cert_chain, bundle.x509_authorities)
    check(
        public_bytes(svid.private_key.public_key()) == public_bytes(svid.leaf.public_key()),
        f"the private key of {spiffe_id} does not belong to its certificate",
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    check(svid.leaf.not_valid_before_utc <= now, f"{spiffe_id} is not valid yet")
    check(now < svid.leaf.not_valid_after_utc, f"{spiffe_id} has expired already")
    return {
        "spiffe_id": spiffe_id,
        "serial": format(svid.leaf.serial_number, "x"),
        "subject": svid.leaf.subject.rfc4514_string(),
        "not_before": svid.leaf.not_valid_before_utc.isoformat(),
        "not_after": svid.leaf.not_valid_after_utc.isoformat(),
        "authority": key_id(svid.cert_chain[-1]) if len(svid.cert_chain) > 1 else authority_key_id(svid.leaf),
    }


def authority_key_id(certificate):
    found = extension(certificate, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    return found.value.key_identifier.hex() if found and found.value.key_identifier else None


def describe(context, rotations):
    bundles = context.x509_bundle_set
    return {
        "at": time.time(),
        "rotations": rotations,
        "identities": [check_svid(svid, bundles) for svid in context.x509_svids],
        "authorities": {
            bundle.trust_domain.name: sorted(key_id(authority) or "" for authority in bundle.x509_authorities)
            for bundle in bundles.bundles
        },
    }


def watch(client, arguments):
    updates = queue.Queue()
    handler = client.stream_x509_contexts(updates.put, updates.put, retry_connect=arguments.reconnect)
    deadline = time.monotonic() + arguments.timeout
    rotations = -1  # the first update is not a rotation
    previous = None
    try:
        while rotations < arguments.rotations:
            try:
                update = updates.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise CheckFailed(
                    f"saw {max(rotations, 0)} of {arguments.rotations} rotations within {arguments.timeout} seconds"
                ) from None
            if isinstance(update, Exception):
                raise CheckFailed(f"the stream failed: {update}")
            leaf = update.default_svid.leaf
            if previous is None or leaf.serial_number != previous.serial_number:
                rotations += 1
                if previous is not None:
                    check(
                        public_bytes(leaf.public_key()) != public_bytes(previous.public_key()),
                        "the rotated identity has its old key",
                    )
                    check(
                        arguments.late or datetime.datetime.now(datetime.timezone.utc) < previous.not_valid_after_utc,
                        "the new identity came after the old one had expired",
                    )
            previous = leaf
            if arguments.expect_id:
                check(
                    str(update.default_svid.spiffe_id) == arguments.expect_id,
                    f"the default identity is {update.default_svid.spiffe_id}, not {arguments.expect_id}",
                )
            print(json.dumps(describe(update, rotations), sort_keys=True), flush=True)
    finally:
        handler.cancel()


def expect_refusal(client, arguments):
    try:
        svid = client.fetch_x509_svid(timeout=arguments.timeout)
    except Exception as error:
        check("no identity issued" in str(error), f"refused, but with other words: {error}")
        print(json.dumps({"at": time.time(), "refused": str(error)}), flush=True)
        return
    raise CheckFailed(f"was given {svid.spiffe_id}, although nothing is registered for this process")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, help="path of the Workload API socket")
    parser.add_argument("--rotations", type=int, default=1, help="how many to wait for; 0 ends after the first update")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for all of it")
    parser.add_argument("--expect-id", help="the SPIFFE ID that the default identity must have")
    parser.add_argument("--reconnect", action="store_true", help="survive the end of a stream, as when the agent restarts")
    parser.add_argument("--late", action="store_true", help="accept an update after the old identity expired, as in an outage")
    parser.add_argument("--refused", action="store_true", help="succeed if, and only if, no identity is issued")
    arguments = parser.parse_args()
    try:
        with WorkloadApiClient(socket_path=f"unix:{arguments.socket}") as client:
            (expect_refusal if arguments.refused else watch)(client, arguments)
    except CheckFailed as error:
        print(f"x509_watch: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"x509_watch: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
