"""Reading kubeconfig files as kubectl does, as far as a proxy needs them.

Source of the rules: kubernetes/client-go tools/clientcmd (loader.go, client_config.go).
"""

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EVERY_CONTEXT = "*"

_LONGEST_NAME = 63


class KubeconfigError(Exception):
    """A kubeconfig cannot be used; the text says which part, and what to do."""


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A credential plugin (client.authentication.k8s.io)."""

    api_version: str
    command: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    provide_cluster_info: bool


@dataclass(frozen=True, slots=True)
class Authentication:
    """How the proxy proves itself to a cluster. Contents come before files, and a token before basic authentication."""

    token: str = field(default="", repr=False)
    token_file: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    exec_plugin: ExecPlugin | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """One context of a kubeconfig, with all that is needed to call its cluster."""

    name: str
    server: str
    authority: bytes
    """PEM of the certificate authorities to trust; empty for the system's."""
    skip_tls_verify: bool
    tls_server_name: str
    namespace: str
    user: str
    authentication: Authentication


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """Contexts by name."""

    contexts: Mapping[str, Context]
    current: str


def default_paths(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The files kubectl would read: those of KUBECONFIG, else ~/.kube/config."""
    listed = [Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return tuple(listed) or (Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config",)


def load(paths: Sequence[Path], only: Sequence[str] = ()) -> Kubeconfig:
    """Read and merge kubeconfig files: the first to name something wins; files that are not there are passed over.

    `only`: the contexts to read; the current one, if there is one, where it is empty, and all for EVERY_CONTEXT.
    Raises KubeconfigError for a context that is not there or cannot be used.
    """
    parts: dict[str, dict[str, tuple[dict[str, Any], Path]]] = {"clusters": {}, "users": {}, "contexts": {}}
    current = ""
    for path in paths:
        if not path.exists():
            continue
        content = _read_yaml(path)
        current = current or content.get("current-context") or ""
        for kind, known in parts.items():
            for name, entry in _named(path, content, kind):
                known.setdefault(name, (entry, path.parent))
    if EVERY_CONTEXT in only:
        wanted: Sequence[str] = tuple(parts["contexts"])
    else:
        wanted = only or ([current] if current else [])
    for name in wanted:
        if name not in parts["contexts"]:
            there = ", ".join(sorted(parts["contexts"])) or "none"
            raise KubeconfigError(f"there is no context {name!r} in the kubeconfig (there are: {there})")
    contexts = {}
    for name in wanted:
        try:
            contexts[name] = _context(name, parts)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise KubeconfigError(f"context {name!r} has an entry that is not as it should be: {error}") from error
    return Kubeconfig(contexts, current)


def in_cluster(environ: Mapping[str, str], directory: Path) -> Context | None:
    """The context of a pod's service account; None outside of a cluster. `directory` is where its files are mounted."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port or not (directory / "token").exists():
        return None
    return Context(
        name="in-cluster",
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        authority=(directory / "ca.crt").read_bytes(),
        skip_tls_verify=False,
        tls_server_name="",
        namespace=(directory / "namespace").read_text().strip(),
        user="service account",
        authentication=Authentication(token_file=directory / "token"),
    )


def slug(name: str) -> str:
    """A context's name as it stands in /clusters/<name>: lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_NAME].strip("-")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise KubeconfigError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}  # as kubectl does
    if not isinstance(content, dict):
        raise KubeconfigError(f"{path} is not a kubeconfig")
    return content


def _named(path: Path, content: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of one list of a kubeconfig, each with its name."""
    entries = content.get(kind) or []
    if not isinstance(entries, list):
        raise KubeconfigError(f"{path}: {kind} is not a list")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise KubeconfigError(f"{path}: an entry of {kind} has no name")
        value = entry.get(kind[:-1]) or {}
        if not isinstance(value, dict):
            raise KubeconfigError(f"{path}: the entry {entry['name']!r} of {kind} has no {kind[:-1]}")
        yield entry["name"], value


def _context(name: str, parts: Mapping[str, Mapping[str, tuple[dict[str, Any], Path]]]) -> Context:
    context, _ = parts["contexts"][name]
    cluster_name, user_name = context.get("cluster", ""), context.get("user", "")
    if cluster_name not in parts["clusters"]:
        raise KubeconfigError(f"context {name!r} names the cluster {cluster_name!r}, which is not in the kubeconfig")
    cluster, cluster_home = parts["clusters"][cluster_name]
    user, user_home = parts["users"].get(user_name, ({}, Path()))
    if cluster.get("proxy-url"):
        raise KubeconfigError(f"context {name!r}: proxy-url is not supported; use --context to leave this cluster out")
    server = cluster.get("server", "")
    if not isinstance(server, str) or not re.match(r"https?://[^/]", server):
        raise KubeconfigError(f"context {name!r}: the server {server!r} is not an http or https URL")
    return Context(
        name=name,
        server=server.rstrip("/"),
        authority=_data_or_file(name, cluster, "certificate-authority", cluster_home),
        skip_tls_verify=bool(cluster.get("insecure-skip-tls-verify")),
        tls_server_name=cluster.get("tls-server-name", ""),
        namespace=context.get("namespace", ""),
        user=user_name,
        authentication=_authentication(name, user, user_home),
    )


def _authentication(name: str, user: Mapping[str, Any], home: Path) -> Authentication:
    if "auth-provider" in user:
        raise KubeconfigError(f"context {name!r}: auth-provider was removed from Kubernetes; use an exec plugin")
    for key in user:
        if key == "as" or key.startswith("as-"):
            # Without it the proxy would have other rights than kubectl has with the same file.
            raise KubeconfigError(f"context {name!r}: its user's {key!r} is not supported; make a context without it")
    plugin = user.get("exec")
    return Authentication(
        token=user.get("token", ""),
        token_file=home / user["tokenFile"] if user.get("tokenFile") else None,
        username=user.get("username", ""),
        password=user.get("password", ""),
        certificate=_data_or_file(name, user, "client-certificate", home),
        key=_data_or_file(name, user, "client-key", home),
        exec_plugin=_exec_plugin(name, plugin, home) if plugin else None,
    )


def _exec_plugin(name: str, plugin: Mapping[str, Any], home: Path) -> ExecPlugin:
    command = plugin.get("command", "")
    if not command:
        raise KubeconfigError(f"context {name!r}: its exec plugin names no command")
    # A command with a slash is relative to the file that names it; a bare name is looked up on the PATH.
    return ExecPlugin(
        api_version=plugin.get("apiVersion", ""),
        command=str(home / command) if "/" in command else command,
        args=tuple(map(str, plugin.get("args") or ())),
        env={entry["name"]: str(entry["value"]) for entry in plugin.get("env") or ()},
        provide_cluster_info=bool(plugin.get("provideClusterInfo")),
    )


def _data_or_file(name: str, entry: Mapping[str, Any], key: str, home: Path) -> bytes:
    data, file = entry.get(f"{key}-data"), entry.get(key)
    try:
        if data:
            return base64.b64decode("".join(data.split()), validate=True)
        return (home / file).read_bytes() if file else b""
    except (binascii.Error, ValueError) as error:
        raise KubeconfigError(f"context {name!r}: {key}-data is not base64") from error
    except OSError as error:
        raise KubeconfigError(f"context {name!r}: cannot read its {key} {error.filename}: {error.strerror}") from error
