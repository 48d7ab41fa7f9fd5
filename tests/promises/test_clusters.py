"""Many clusters behind one proxy, each with a credential of another kind."""

import base64
import datetime as dt
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kube_audit_proxy.demo.cluster import DemoCluster
from support.proxies import PROGRAM, Proxy, proxy, wait_until

pytestmark = pytest.mark.servers

PLUGIN = """#!{python}
import json, pathlib
token = pathlib.Path({token!r}).read_text()
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
                  "status": {{"token": token}}}}))
"""


@dataclass(frozen=True, slots=True)
class Many:
    """A cluster that takes certificates too, and a proxy that reaches it by five contexts."""

    cluster: DemoCluster
    proxy: Proxy
    token_file: Path


def _pair(home: Path) -> tuple[Path, bytes, bytes]:
    """A certificate authority's file, and a client certificate of it with its key."""
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())

    def certificate(subject: x509.Name, issuer: x509.Name, *, ca: bool) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )

    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clients")])
    client = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
            x509.NameAttribute(NameOID.COMMON_NAME, "carla"),
        ]
    )
    path = home / "clients.pem"
    path.write_bytes(certificate(authority, authority, ca=True).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return path, certificate(client, authority, ca=False).public_bytes(serialization.Encoding.PEM), private


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """Give contexts with a token, a token file, a plugin, a certificate, and one whose cluster is not there."""
    home = tmp_path_factory.mktemp("many")
    authority, certificate, key = _pair(home)
    with DemoCluster(home / "cluster", apiserver_flags=[f"--client-ca-file={authority}"]) as cluster:
        token_file = home / "token"
        token_file.write_text(cluster.token)
        plugin = home / "plugin"
        plugin.write_text(PLUGIN.format(python=sys.executable, token=str(token_file)))
        plugin.chmod(0o700)
        users: dict[str, dict[str, Any]] = {
            "by-token": {"token": cluster.token},
            "by-file": {"tokenFile": "token"},
            "by-plugin": {
                "exec": {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": "./plugin",
                    "interactiveMode": "Never",
                }
            },
            "By_Certificate": {
                "client-certificate-data": base64.b64encode(certificate).decode(),
                "client-key-data": base64.b64encode(key).decode(),
            },
            "gone": {"token": "x"},
        }
        kubeconfig = home / "kubeconfig"
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "by-token",
                    "clusters": [
                        {
                            "name": "here",
                            "cluster": {"server": cluster.server, "certificate-authority": str(cluster.ca_file)},
                        },
                        {"name": "gone", "cluster": {"server": "https://127.0.0.1:1"}},
                    ],
                    "users": [{"name": name, "user": user} for name, user in users.items()],
                    "contexts": [
                        {"name": name, "context": {"cluster": "gone" if name == "gone" else "here", "user": name}}
                        for name in users
                    ],
                }
            )
        )
        with proxy(["--kubeconfig", str(kubeconfig), "--context", "*"], home / "data", home / "log") as running:
            yield Many(cluster, running, token_file)


def _whoami(many: Many, context: str) -> subprocess.CompletedProcess[str]:
    argv = [str(many.cluster.kubectl), f"--kubeconfig={many.proxy.kubeconfig}", f"--context={context}"]
    return subprocess.run([*argv, "auth", "whoami", "-o", "json"], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("context", "who"),
    [("by-token", "demo-owner"), ("by-file", "demo-owner"), ("by-plugin", "demo-owner"), ("by-certificate", "carla")],
)
def test_each_kind_of_credential_gets_in(many: Many, context: str, who: str) -> None:
    """The owner acts upstream as each context's own credential, and the record names cluster and identity."""
    done = _whoami(many, context)
    assert json.loads(done.stdout)["status"]["userInfo"]["username"] == who
    end = many.proxy.ended(lambda end: end["cluster"] == context and end.get("status") == 201)[-1]
    assert (end["upstream_user"], end["impersonated"]) == (who, False)


def test_a_cluster_that_is_not_there_harms_no_other(many: Many) -> None:
    """Its calls are answered 502 with the reason and recorded as unreachable; the others go on."""
    done = _whoami(many, "gone")
    assert done.returncode == 1
    assert "no connection to 127.0.0.1:1" in done.stderr
    end = many.proxy.ended(lambda end: end["cluster"] == "gone")[-1]
    assert (end["status"], end["outcome"], end["decision"]) == (502, "upstream_unreachable", "error")
    assert _whoami(many, "by-token").returncode == 0


def test_a_refused_credential_is_read_again(many: Many) -> None:
    """A token file that turned bad is told as the proxy's own trouble; once it is good again, calls go on."""
    good = many.token_file.read_text()
    many.token_file.write_text("stale")
    try:
        wait_until(lambda: "own credential" in _whoami(many, "by-file").stderr, "the stale token to be used")
    finally:
        many.token_file.write_text(good)
    wait_until(lambda: _whoami(many, "by-file").returncode == 0, "the good token to be used")


def test_a_kubeconfig_is_for_its_cluster_only(many: Many) -> None:
    """A token made for one cluster is refused for another, by name."""
    path = many.proxy.kubeconfig_of("jane", cluster="by-token")
    argv = [str(many.cluster.kubectl), f"--kubeconfig={path}"]
    other = f"--server={many.proxy.url}/clusters/by-certificate"
    assert subprocess.run([*argv, "auth", "whoami"], check=False, capture_output=True).returncode == 0
    done = subprocess.run([*argv, other, "get", "ns"], check=False, capture_output=True, text=True)
    assert "may call (those are: by-token)" in done.stderr


def test_reserved_names_are_not_given_out(many: Many) -> None:
    """Nobody gets a kubeconfig that would make them a system: user or group."""
    argv = [*PROGRAM, "kubeconfig", "--cluster=by-token", "--user=eve", f"--data-dir={many.proxy.data_dir}"]
    done = subprocess.run([*argv, "--group=system:masters"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "reserved by Kubernetes" in done.stderr
