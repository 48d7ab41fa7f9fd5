"""TLS towards clients, and the proxy's own certificate for those who bring none, with an authority for it."""

import datetime as dt
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_AUTHORITY_DAYS, _SERVER_DAYS, _RENEW_DAYS = 3650, 365, 30


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of the server's certificate and key, and of the authority that clients are to trust."""

    certificate: Path
    key: Path
    authority: Path


def ensure_certificates(directory: Path, hosts: Iterable[str]) -> Certificates:
    """Give the certificates kept in `directory`, made or renewed if need be; the authority stays the same.

    `hosts`: names and addresses that clients use besides those of this machine.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = Certificates(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    authority_key_path = directory / "ca.key"
    if not (paths.authority.exists() and authority_key_path.exists()):
        key, certificate = _make_authority()
        _write_key(authority_key_path, key)
        paths.authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname(), *hosts} - {"", "0.0.0.0", "::"}  # noqa: S104 - left out
    if not _still_good(paths, names):
        authority_key = serialization.load_pem_private_key(authority_key_path.read_bytes(), None)
        authority = x509.load_pem_x509_certificate(paths.authority.read_bytes())
        assert isinstance(authority_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - we made it
        key, certificate = _make_server(authority_key, authority, names)
        _write_key(paths.key, key)
        paths.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS towards clients: 1.2 and newer, HTTP/1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    # The client knows which cipher its machine has instructions for; all that are offered here are good.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL 3 lets no client ask for it anyway; 1.1 does
    return context


def _still_good(paths: Certificates, names: set[str]) -> bool:
    """Whether the server's certificate lasts, names all names, and fits both its key and the authority."""
    if not (paths.certificate.exists() and paths.key.exists()):
        return False
    certificate = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
    try:
        key = serialization.load_pem_private_key(paths.key.read_bytes(), None)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(paths.authority.read_bytes()))
    except (ValueError, TypeError, InvalidSignature):
        return False
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(entry.value) for entry in alternatives}
    return left.days > _RENEW_DAYS and names <= known and key.public_key() == certificate.public_key()


def _make_authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kube-audit-proxy on {socket.gethostname()}"[:64])])
    builder = (
        _builder(name, name, key, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def _make_server(
    authority_key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, names: Iterable[str]
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-audit-proxy")])
    builder = (
        _builder(subject, authority.subject, key, _SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(list(map(_general_name, sorted(names)))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    return key, builder.sign(authority_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(pem)
