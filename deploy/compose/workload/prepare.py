"""Makes a certificate authority and a certificate for the lab's agent (`x509pop`), unless they are there already.

    prepare.py FOLDER
"""

import datetime
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LIFETIME = datetime.timedelta(days=3650)


def name(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def usage(**allowed):
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{purpose: allowed.get(purpose, False) for purpose in names.split()})


def certificate(subject, public_key, issuer, issuer_key, is_ca):
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True) if is_ca else usage(digital_signature=True), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def write(path, data, mode):
    """Whole or not at all."""
    partial = path + ".partial"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    os.replace(partial, path)


def main():
    if len(sys.argv) != 2:
        print("usage: prepare.py FOLDER", file=sys.stderr)
        return 64
    folder = sys.argv[1]
    agent_pem = os.path.join(folder, "agent.pem")
    if os.path.exists(agent_pem):  # written last
        print("the lab's certificates are there already")
        return 0
    ca_key = ec.generate_private_key(ec.SECP256R1())
    agent_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate("finial lab", ca_key.public_key(), "finial lab", ca_key, is_ca=True)
    agent = certificate("lab-agent", agent_key.public_key(), "finial lab", ca_key, is_ca=False)
    private = agent_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write(os.path.join(folder, "ca.pem"), ca.public_bytes(Encoding.PEM), 0o644)
    write(os.path.join(folder, "agent.key"), private, 0o600)
    write(agent_pem, agent.public_bytes(Encoding.PEM), 0o644)
    print("made the lab's certificates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
