"""The proxy's own certificates: made once, renewed when need be, and trusted by real TLS."""

import datetime as dt
import ipaddress
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from kube_audit_proxy import tls
from kube_audit_proxy.tls import Certificates, ensure_certificates, server_context


def contents(directory: Path) -> dict[str, bytes]:
    """Give all files of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def certificate(path: Path) -> x509.Certificate:
    """Read a certificate."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def names(path: Path) -> set[str]:
    """Give the names a certificate is good for."""
    alternatives = certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(entry.value) for entry in alternatives}


def handshake(made: Certificates, name: str, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLObject:
    """Shake hands with a server that has these certificates, as strictly as the ssl module can; give the client."""
    context = ssl.create_default_context(cafile=made.authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.minimum_version = minimum
    context.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context(made.certificate, made.key).wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() is not None
    return client


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    """Give certificates just made."""
    return ensure_certificates(tmp_path / "tls", ["kube.example.com", "192.0.2.9"])


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1", "kube.example.com", "192.0.2.9"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["from-1.2", "1.3"])
def test_trusted_by_the_ssl_module(made: Certificates, name: str, version: ssl.TLSVersion) -> None:
    """A client that trusts the authority takes the server for each of its names, in a real and strict handshake."""
    client = handshake(made, name, minimum=version)
    assert client.version() == "TLSv1.3"
    assert client.selected_alpn_protocol() == "http/1.1"


def test_not_trusted_for_other_names(made: Certificates) -> None:
    """For another name the handshake fails: the names are what makes the certificate good."""
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example\.com"):
        handshake(made, "other.example.com")


def test_not_trusted_by_another_authority(made: Certificates, tmp_path: Path) -> None:
    """Another proxy's authority does not vouch for this server."""
    other = ensure_certificates(tmp_path / "other", [])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(Certificates(made.certificate, made.key, other.authority), "127.0.0.1")


def test_over_a_socket(made: Certificates) -> None:
    """It works over a socket too, up to the bytes that are sent."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        server = server_context(made.certificate, made.key).wrap_socket(
            ours, server_side=True, do_handshake_on_connect=False
        )
        client = ssl.create_default_context(cafile=made.authority).wrap_socket(
            theirs, server_hostname="127.0.0.1", do_handshake_on_connect=False
        )
        with server, client:
            for _ in range(3):
                for side in (client, server):
                    try:
                        side.do_handshake()
                    except ssl.SSLWantReadError:
                        continue
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"


def test_keys_are_private(made: Certificates, tmp_path: Path) -> None:
    """Keys are readable by their owner only, and the directory is not for others either."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tls").iterdir()}
    assert modes["server.key"] == modes["ca.key"] == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert made == Certificates(
        tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key", tmp_path / "tls" / "ca.pem"
    )
    assert set(modes) == {"server.pem", "server.key", "ca.pem", "ca.key"}


@pytest.mark.parametrize(
    "hosts",
    [["kube.example.com", "192.0.2.9"], ["192.0.2.9"], [], ["", "0.0.0.0", "::"], ["localhost", "::1"]],  # noqa: S104 - nobody listens
    ids=["same", "fewer", "none", "anything", "own"],
)
@pytest.mark.usefixtures("made")
def test_made_once(tmp_path: Path, hosts: list[str]) -> None:
    """As long as the certificate has all names that are wanted, every file stays as it is."""
    before = contents(tmp_path / "tls")
    ensure_certificates(tmp_path / "tls", hosts)
    assert contents(tmp_path / "tls") == before


def test_renewed_when_names_are_added(made: Certificates, tmp_path: Path) -> None:
    """A new name gets a new certificate and key from the same authority, so clients' kubeconfigs stay good."""
    before = contents(tmp_path / "tls")
    again = ensure_certificates(tmp_path / "tls", ["new.example.com"])
    after = contents(tmp_path / "tls")
    assert again == made
    assert {name for name in before if before[name] != after[name]} == {"server.pem", "server.key"}
    assert handshake(made, "new.example.com").version()
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600


@pytest.mark.parametrize(("days", "renewed"), [(29, True), (30, True), (40, False)])
def test_renewed_before_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, renewed: bool) -> None:
    """A certificate with 30 days left or fewer is replaced by one that lasts; with more it stays."""
    monkeypatch.setattr(tls, "_SERVER_DAYS", days)
    ensure_certificates(tmp_path, [])
    before = contents(tmp_path)
    monkeypatch.undo()
    made = ensure_certificates(tmp_path, [])
    assert (contents(tmp_path)["server.pem"] != before["server.pem"]) is renewed
    left = certificate(made.certificate).not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert (left.days > 300) is renewed


@pytest.mark.parametrize("missing", ["server.pem", "server.key"])
def test_a_missing_half_is_made_again(made: Certificates, missing: str) -> None:
    """Without its key or its certificate the server gets a new pair."""
    made.key.with_name(missing).unlink()
    ensure_certificates(made.key.parent, [])
    assert handshake(made, "127.0.0.1").version()


@pytest.mark.parametrize("missing", ["ca.pem", "ca.key"])
def test_a_new_authority_signs_anew(made: Certificates, missing: str) -> None:
    """Where the authority had to be made again, the server's certificate is its own."""
    made.key.with_name(missing).unlink()
    ensure_certificates(made.key.parent, [])
    handshake(made, "127.0.0.1")


def test_a_pair_that_does_not_fit_is_made_again(made: Certificates, tmp_path: Path) -> None:
    """A crash between writing the key and the certificate is mended by the next start."""
    made.key.write_bytes(ensure_certificates(tmp_path / "other", []).key.read_bytes())
    ensure_certificates(made.key.parent, [])
    handshake(made, "127.0.0.1")


def test_names_are_of_their_kind(made: Certificates) -> None:
    """Addresses are addresses and names are names, as clients look for them; this machine's own name is one."""
    assert names(made.certificate) == {
        "localhost", "127.0.0.1", "::1", "kube.example.com", "192.0.2.9", socket.gethostname(),
    }  # fmt: skip
    alternatives = certificate(made.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(one) for one in alternatives.get_values_for_type(x509.IPAddress)} == {
        str(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1", "192.0.2.9")
    }


def test_the_authority_signs_and_the_server_does_not(made: Certificates) -> None:
    """The server's key cannot be used to sign for other names, and the authority not for another authority."""
    authority = certificate(made.authority).extensions.get_extension_for_class(x509.BasicConstraints).value
    server = certificate(made.certificate).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (authority.ca, authority.path_length, server.ca) == (True, 0, False)
    certificate(made.certificate).verify_directly_issued_by(certificate(made.authority))
