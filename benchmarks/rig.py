"""What is measured against what: the proxy and its peers, the servers behind them, and what their work costs."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from kube_audit_proxy.demo.build import ensure
from kube_audit_proxy.demo.child import free_ports
from kube_audit_proxy.demo.cluster import DemoCluster
from kube_audit_proxy.tls import ensure_certificates

RESULTS = Path(__file__).parent / "results"
TARGET = "/api/v1/namespaces/default/configmaps/bench"
HEADERS = (
    "User-Agent: kubectl/v1.36.3 (linux/amd64) kubernetes/0000000",
    "Accept-Encoding: gzip",
    "Kubectl-Command: kubectl get",
    "Kubectl-Session: 3d9f6c1e-6a0f-4d43-9a55-0f6f5d4a1b2c",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that carries calls: where, with which headers, and the processes it consists of."""

    name: str
    url: str
    headers: tuple[str, ...]
    path: tuple[psutil.Process, ...]
    behind: tuple[psutil.Process, ...] = ()
    kubeconfig: Path = Path()


@dataclass(frozen=True, slots=True)
class Upstream:
    """What stands behind the peers: an API server, or what takes its part."""

    kubeconfig: Path
    direct: Peer
    process: subprocess.Popen[bytes] | None = None


def cpu(processes: Sequence[psutil.Process]) -> float:
    """Seconds of CPU that these processes have used."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))


@contextmanager
def running(command: list[str], *, talk: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the block; `talk`: its standard input is ours."""
    stdin = subprocess.PIPE if talk else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.terminate()


def first_line(process: subprocess.Popen[bytes]) -> str:
    """Wait for the next line that a server prints."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def build(tool: str, home: Path) -> Path:
    """Build one of our Go programs into `home`."""
    program = home / tool
    subprocess.run(["go", "build", "-o", program, f"./{tool}"], cwd=Path(__file__).parent / "tools", check=True)
    return program


def light_upstream(home: Path, stack: ExitStack) -> Upstream:
    """Start an HTTPS server that costs next to nothing, so that what stands in front of it is what limits."""
    certificates = ensure_certificates(home / "tls", [])
    command = [str(build("upstream", home)), str(certificates.certificate), str(certificates.key)]
    process = stack.enter_context(running(command, talk=True))
    server = f"https://{first_line(process)}"
    content = {
        "current-context": "demo",
        "clusters": [
            {"name": "demo", "cluster": {"server": server, "certificate-authority": str(certificates.authority)}}
        ],
        "users": [{"name": "demo", "user": {"token": "of-no-use"}}],
        "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
    }
    kubeconfig = home / "upstream.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(content))
    return Upstream(kubeconfig, Peer("direct", server, HEADERS, (), kubeconfig=kubeconfig), process)


def real_upstream(home: Path, stack: ExitStack) -> Upstream:
    """Start a demo cluster with the object that all ask for."""
    cluster = stack.enter_context(DemoCluster(home / "cluster", progress=print))
    command = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), "create", "configmap", "bench"]
    subprocess.run([*command, f"--from-literal=data={'x' * 2_600}"], check=True)
    content = yaml.safe_load(cluster.kubeconfig.read_bytes())
    server, token = content["clusters"][0]["cluster"]["server"], content["users"][0]["user"]["token"]
    headers = (*HEADERS, f"Authorization: Bearer {token}")
    return Upstream(cluster.kubeconfig, Peer("direct", server, headers, (), kubeconfig=cluster.kubeconfig))


def kubectl() -> Path:
    """Give the kubectl of the demo."""
    return ensure("kubernetes", print)["kubectl"]


def kubectl_proxy(upstream: Upstream, stack: ExitStack) -> Peer:
    """Start `kubectl proxy`: plain HTTP in, and it audits nothing."""
    command = [str(kubectl()), "--kubeconfig", str(upstream.kubeconfig), "proxy", "--port=0"]
    process = stack.enter_context(running(command))
    where = first_line(process).rpartition(" ")[2]
    return Peer("kubectl proxy", f"http://{where}", HEADERS, (psutil.Process(process.pid),))


_NGINX = """
worker_processes 1;
daemon off;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 1024; }}
http {{
  log_format calls escape=json '{{"time":"$time_iso8601","user":"$remote_user","source":"$remote_addr",'
    '"method":"$request_method","uri":"$request_uri","status":$status,"bytes":$bytes_sent,"seconds":$request_time,'
    '"upstream_seconds":"$upstream_response_time","agent":"$http_user_agent","command":"$http_kubectl_command",'
    '"session":"$http_kubectl_session"}}';
  access_log {home}/access.log calls;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream api {{ server {address}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    keepalive_requests 1000000;
    location / {{
      proxy_pass https://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffer_size 16k;
      proxy_buffers 8 16k;
    }}
  }}
}}
"""


def nginx(home: Path, upstream: Upstream, stack: ExitStack) -> Peer:
    """Start nginx: TLS on both sides and a JSON access log that is not synced."""
    folder = home / "nginx"
    folder.mkdir()
    certificates = ensure_certificates(folder / "tls", [])
    (port,) = free_ports(1)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _NGINX.format(
            home=folder, port=port, address=upstream.direct.url.removeprefix("https://"),
            certificate=certificates.certificate, key=certificates.key,
        )
    )  # fmt: skip
    process = stack.enter_context(running(["nginx", "-c", str(configuration), "-e", str(folder / "error.log")]))
    main = psutil.Process(process.pid)
    while not main.children():
        if process.poll() is not None:
            raise RuntimeError(f"nginx did not start: {(folder / 'error.log').read_text()}")
    return Peer("nginx", f"https://127.0.0.1:{port}", upstream.direct.headers, (main, *main.children()))


def ours(home: Path, upstream: Upstream, stack: ExitStack, *, workers: int = 1, options: Sequence[str] = ()) -> Peer:
    """Start this proxy, as its owner does."""
    command = [sys.executable, "-m", "kube_audit_proxy", "up", "--json", "--kubeconfig", str(upstream.kubeconfig)]
    command += [
        "--data-dir",
        str(home / f"data-{workers}"),
        "--listen",
        "127.0.0.1:0",
        "--workers",
        str(workers),
        *options,
    ]
    process = stack.enter_context(running(command))
    ready: dict[str, Any] = json.loads(first_line(process))
    token = yaml.safe_load(Path(ready["kubeconfig"]).read_bytes())["users"][0]["user"]["token"]
    children = psutil.Process(process.pid).children(recursive=True)
    indexer = tuple(child for child in children if any("indexer" in part for part in child.cmdline()))
    path = tuple(child for child in children if child not in indexer)
    name = f"kube-audit-proxy, {workers} worker{'s' if workers > 1 else ''}"
    headers = (*HEADERS, f"Authorization: Bearer {token}")
    return Peer(name, f"{ready['url']}/clusters/demo", headers, path, indexer, Path(ready["kubeconfig"]))
