"""The proxy's own credential for a cluster, fresh at every call."""

import asyncio
import base64
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kube_audit_proxy.cluster.kubeconfig import Context, ExecPlugin

_FILE_TRUSTED_FOR = 10.0
"""Seconds after which a token file is read again (client-go: transport/token_source.go reads it every 10 s)."""

_TOKEN = re.compile(r"[!-~]+")
_PLUGIN_TIMEOUT = 30.0
_RENEW_EARLY = 30.0


class CredentialError(Exception):
    """There is no credential for the cluster at present; the text says why."""


@dataclass(frozen=True)
class Credential:
    """What proves the proxy to a cluster at the moment: a header line, or a certificate, or both."""

    authorization: bytes = b""
    """`Authorization: ...` with its CRLF, or empty."""
    certificate: bytes = b""
    key: bytes = b""


class CredentialSource:
    """Gives the present credential of one context; files are read again and plugins run again when it is time."""

    def __init__(self, context: Context, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._context = context
        self._clock = clock
        self._wall = wall
        self._lock = asyncio.Lock()
        self._present: Credential | None = None
        self._until = 0.0
        """Monotonic seconds until which the present credential needs no second look."""

    def fresh(self) -> Credential | None:
        """The present credential, unless it is time for a second look."""
        return self._present if self._clock() < self._until else None

    async def credential(self) -> Credential:
        """Give the credential. Raises CredentialError."""
        if (fresh := self.fresh()) is not None:
            return fresh
        async with self._lock:
            if self._present is None or self._clock() >= self._until:
                self._present, self._until = await self._renew()
        return self._present

    def refused(self) -> None:
        """The cluster did not take the credential: the next call gets a new one."""
        self._until = 0.0

    async def _renew(self) -> tuple[Credential, float]:
        # The order in which client-go lets one win over the other: file, token, plugin, user and password.
        authentication = self._context.authentication
        certificate, key = authentication.certificate, authentication.key
        if authentication.token_file is not None:
            path = authentication.token_file
            bearer = _bearer(_read_token(path), f"the token file {path}")
            return Credential(bearer, certificate, key), self._clock() + _FILE_TRUSTED_FOR
        if authentication.token:
            return Credential(_bearer(authentication.token, "the kubeconfig"), certificate, key), float("inf")
        if authentication.exec_plugin is not None:
            return await self._run_plugin(authentication.exec_plugin)
        if authentication.username:
            both = base64.b64encode(f"{authentication.username}:{authentication.password}".encode())
            return Credential(b"Authorization: Basic %b\r\n" % both, certificate, key), float("inf")
        return Credential(b"", certificate, key), float("inf")

    async def _run_plugin(self, plugin: ExecPlugin) -> tuple[Credential, float]:
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command,
                *plugin.args,
                env={**os.environ, **plugin.env, "KUBERNETES_EXEC_INFO": json.dumps(self._exec_info(plugin))},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise CredentialError(f"cannot run the credential plugin {plugin.command!r}: {error.strerror}") from error
        try:
            output, errors = await asyncio.wait_for(process.communicate(), _PLUGIN_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise CredentialError(
                f"the credential plugin {plugin.command!r} took longer than {_PLUGIN_TIMEOUT:.0f} s"
            ) from None
        if process.returncode:
            said = errors.decode("utf-8", "replace").strip()[-300:]
            raise CredentialError(f"the credential plugin {plugin.command!r} ended with {process.returncode}: {said}")
        try:
            status: Mapping[str, Any] = json.loads(output)["status"]
            credential = _printed_credential(status, f"the credential plugin {plugin.command!r}")
            expires = status.get("expirationTimestamp")
            left = datetime.fromisoformat(expires).timestamp() - self._wall() - _RENEW_EARLY if expires else None
        except (ValueError, KeyError, TypeError, AttributeError) as nonsense:
            raise CredentialError(
                f"the credential plugin {plugin.command!r} printed no ExecCredential with a token or certificate"
            ) from nonsense
        return credential, float("inf") if left is None else self._clock() + left

    def _exec_info(self, plugin: ExecPlugin) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": False}
        if plugin.provide_cluster_info:
            spec["cluster"] = {
                "server": self._context.server,
                "certificate-authority-data": base64.b64encode(self._context.authority).decode(),
                "insecure-skip-tls-verify": self._context.skip_tls_verify,
                "tls-server-name": self._context.tls_server_name,
            }
        return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}


def _printed_credential(status: Mapping[str, Any], source: str) -> Credential:
    """Read a plugin's answer; raises ValueError, KeyError or the like where it has no credential."""
    token, certificate = status.get("token"), status.get("clientCertificateData")
    if not token and not certificate:
        raise ValueError("neither a token nor a certificate")
    key = status["clientKeyData"] if certificate else ""
    return Credential(_bearer(token, source) if token else b"", (certificate or "").encode(), key.encode())


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise CredentialError(f"cannot read the token file {error.filename}: {error.strerror}") from error
    except UnicodeDecodeError as undecodable:
        raise CredentialError(f"the token file {path} is not text") from undecodable


def _bearer(token: object, source: str) -> bytes:
    """Give the header line. A line end in a token would end the head early, and with it the impersonation."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise CredentialError(f"{source} gives no token, or one with characters that no token has")
    return f"Authorization: Bearer {token}\r\n".encode()


def load_certificate(load: Callable[[Path, Path], None], certificate: bytes, key: bytes) -> None:
    """Hand a certificate and key to `load` as files, as the ssl module takes nothing else, and remove them at once."""
    with tempfile.TemporaryDirectory(prefix="kube-audit-proxy-") as directory:
        certificate_file, key_file = Path(directory) / "certificate.pem", Path(directory) / "key.pem"
        certificate_file.write_bytes(certificate)
        key_file.touch(mode=0o600)
        key_file.write_bytes(key)
        load(certificate_file, key_file)
