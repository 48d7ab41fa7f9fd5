"""One cluster as the gateway uses it: its name, where it is, and a pool of connections to it."""

import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from kube_audit_proxy.cluster.credential import Credential, CredentialSource, load_certificate
from kube_audit_proxy.cluster.kubeconfig import Context
from kube_audit_proxy.gateway.pool import Address, Pool


class Cluster:
    """A cluster behind the proxy."""

    def __init__(self, name: str, context: Context, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        url = urlsplit(context.server)
        self.name = name
        self.context = context
        self.credentials = CredentialSource(context, clock, wall)
        self.base_path = url.path.rstrip("/")
        """Path of the server's URL, which stands before every target (`https://host/k8s/clusters/c-1`)."""
        self.host_header = f"Host: {url.netloc.rpartition('@')[2]}\r\n".encode()
        self.own_user = ""
        """The name the API server knows the credential by; empty while it is not known."""
        self._tls = url.scheme == "https"
        self._host = url.hostname or ""
        self._port = url.port or (443 if self._tls else 80)
        self._present: Credential | None = None
        self._certificate: tuple[bytes, bytes] = (b"", b"")
        self._address: Address | None = None
        self.pool = Pool(self.address, clock)

    def present(self) -> Credential | None:
        """The credential, if it needs no second look: what `credential` would give, without waiting."""
        fresh = self.credentials.fresh()
        return fresh if fresh is self._present else None

    async def credential(self) -> Credential:
        """The proxy's credential here, with the TLS settings made to fit. Raises CredentialError."""
        credential = await self.credentials.credential()
        if credential is self._present:
            return credential
        self._present = credential
        if (credential.certificate, credential.key) != self._certificate or self._address is None:
            self._certificate = (credential.certificate, credential.key)
            self._address = self._make_address()
            self.pool.close()
        return credential

    def address(self) -> Address:
        """Where to connect to."""
        if self._address is None:
            self._address = self._make_address()
        return self._address

    def _make_address(self) -> Address:
        context = self.context
        return Address(
            self._host,
            self._port,
            _tls_context(context, *self._certificate) if self._tls else None,
            context.tls_server_name or self._host,
        )


def _tls_context(context: Context, certificate: bytes, key: bytes) -> ssl.SSLContext:
    tls = ssl.create_default_context(cadata=context.authority.decode() or None)
    # Clusters' own authorities are older than the rules that this flag enforces (missing key identifiers).
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    tls.options |= ssl.OP_NO_RENEGOTIATION
    if context.skip_tls_verify:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if certificate:
        load_certificate(tls.load_cert_chain, certificate, key)
    return tls
