"""docker-compose.yml, the image and Grafana's provisioning: taken by Docker Compose's own loader, and fitting."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kube_audit_proxy.config import parse
from kube_audit_proxy.demo.build import MODULES, cache_root, ensure
from kube_audit_proxy.demo.stack import TelemetryStack
from servers.kubectls import new_kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]
_CONFIGURATION = _ROOT / "collector-config"
_SIEMS = sorted(path.stem for path in (_CONFIGURATION / "siem").glob("*.yaml") if path.stem != "kafka-sasl")
_PROGRAM = Path(__file__).with_name("compose")
_LEFT_OUT = {"SIEM", "LOKI_RETENTION", "TEMPO_RETENTION", "GRAFANA_ADDRESS"}


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


_COMPOSE: dict[str, Any] = _yaml(_ROOT / "docker-compose.yml")
_SERVICES: dict[str, Any] = _COMPOSE["services"]
_LASTING = sorted(set(_SERVICES) - {"owners"})


def _mounts(files: tuple[str, ...] = ("docker-compose.yml", "docker-compose.siem.yml")) -> Iterator[tuple[str, str]]:
    for file in files:
        for service in _yaml(_ROOT / file)["services"].values():
            for volume in service.get("volumes", ()):
                source, target, *_ = volume.split(":")
                if source.startswith("."):
                    yield source, target


@pytest.fixture(scope="module")
def loader() -> Path:
    """Give the program that reads compose files as Docker Compose does; it is built once."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Docker Compose's loader is built with Go, which is not installed")
    sources = sorted(_PROGRAM.iterdir())
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = cache_root(os.environ) / f"compose-{key}"
    program = folder / "compose"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                built = Path(scratch) / "compose"
                command = [go, "build", "-trimpath", "-buildvcs=false", "-o", str(built), "."]
                subprocess.run(command, cwd=_PROGRAM, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
                built.rename(program)
    return program


def _load(loader: Path, *files: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    return subprocess.run(
        [loader, *files], cwd=_ROOT, env=kept | environ, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.servers
def test_compose_takes_the_file(loader: Path) -> None:
    """Docker Compose's loader accepts the file without any variable set, and finds all services in it."""
    result = _load(loader, "docker-compose.yml")
    assert result.returncode == 0, result.stderr
    services = json.loads(result.stdout)["services"]
    assert set(services) == {"proxy", "collector", "loki", "tempo", "grafana", "owners"}
    assert services["loki"]["environment"]["LOKI_RETENTION"] == "2160h"
    assert services["grafana"]["ports"][0]["host_ip"] == "127.0.0.1"


@pytest.mark.servers
@pytest.mark.parametrize("siem", _SIEMS)
def test_compose_takes_the_siem_file(loader: Path, siem: str) -> None:
    """With the second file the collector is given the SIEM's configuration on top of the base, and a way out."""
    result = _load(loader, "docker-compose.yml", "docker-compose.siem.yml", SIEM=siem)
    assert result.returncode == 0, result.stderr
    collector = json.loads(result.stdout)["services"]["collector"]
    files = [argument.removeprefix("--config=/etc/otelcol/") for argument in collector["command"]]
    assert files == ["otel-collector.yaml", f"siem/{siem}.yaml"]
    assert all((_CONFIGURATION / file).is_file() for file in files)
    assert set(collector["networks"]) == {"edge", "telemetry", "storage"}


@pytest.mark.servers
def test_siem_file_asks_for_its_name(loader: Path) -> None:
    """Without SIEM the second file is refused, with a sentence that says what is missing."""
    result = _load(loader, "docker-compose.yml", "docker-compose.siem.yml")
    assert result.returncode != 0
    assert "SIEM is missing a value: is the name of a file in collector-config/siem" in result.stderr


@pytest.mark.parametrize(("source", "target"), sorted(set(_mounts())))
def test_what_is_mounted_is_there(source: str, target: str) -> None:
    """Each file or folder that a container is given exists, and a file stays a file."""
    path = _ROOT / source
    assert path.exists()
    assert path.is_dir() == (not Path(target).suffix)


def test_images_are_pinned() -> None:
    """Every image has a full version, in the compose file and in the Dockerfile."""
    images = [service["image"] for service in _SERVICES.values()]
    images += re.findall(r"^FROM (\S+)", (_ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    for image in images:
        assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+(-[a-z]+)*", image), image


@pytest.mark.parametrize(("service", "module"), [("loki", "loki"), ("tempo", "tempo"), ("collector", "collector")])
def test_images_are_what_was_tested(service: str, module: str) -> None:
    """The stack runs the versions that the tests run, or for Tempo a later patch of the same line."""
    version = _SERVICES[service]["image"].rpartition(":")[2]
    assert f"v{version}".startswith(MODULES[module].version)


def test_only_proxy_and_grafana_are_published() -> None:
    """The proxy and Grafana publish a port each; nothing else can be reached from outside."""
    published = {name: service["ports"] for name, service in _SERVICES.items() if "ports" in service}
    assert set(published) == {"proxy", "grafana"}
    assert [len(ports) for ports in published.values()] == [1, 1]
    assert published["proxy"][0].endswith(":8443")
    assert published["grafana"][0].endswith(":3000")


def test_stores_are_on_inner_networks_without_the_proxy() -> None:
    """Loki and Tempo are on networks that lead nowhere else, where only the collector and Grafana are with them."""
    for store in ("loki", "tempo"):
        for network in _SERVICES[store]["networks"]:
            assert _COMPOSE["networks"][network] == {"internal": True}
            beside = {name for name, service in _SERVICES.items() if network in service.get("networks", ())}
            assert beside == {"loki", "tempo", "collector", "grafana"}


def test_secrets_are_files_that_git_ignores() -> None:
    """Secrets are files of an ignored folder, and no variable holds one."""
    for secret in _COMPOSE["secrets"].values():
        assert set(secret) == {"file"}
        assert secret["file"].startswith("./deploy/secrets/")
    for folder in ("secrets", "siem-secrets"):
        assert (_ROOT / "deploy" / folder / ".gitignore").read_text("utf-8").splitlines() == ["*", "!.gitignore"]
    for service in _SERVICES.values():
        for name in service.get("environment", {}):
            assert not re.search("PASSWORD|TOKEN|SECRET|KEY", name) or name.endswith("__FILE"), name


@pytest.mark.parametrize("name", _LASTING)
def test_containers_have_no_privileges(name: str) -> None:
    """Containers keep no capability and can gain none, come back after a fault, and write to volumes only."""
    service = _SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is (name != "grafana")
    assert "user" not in service  # the images' own, none of which is root


@pytest.mark.parametrize("name", sorted(set(_LASTING) - {"proxy", "collector"}))
def test_containers_are_watched(name: str) -> None:
    """What can ask itself whether it works does so, without a shell that the image may lack."""
    assert _SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize(
    ("service", "file"),
    [("collector", "otel-collector.yaml"), ("loki", "loki.yaml"), ("tempo", "tempo.yaml")],
)
def test_variables_are_those_of_the_files(service: str, file: str) -> None:
    """Each variable that a container is given is one that its configuration file reads."""
    text = (_CONFIGURATION / file).read_text("utf-8")
    for name in _SERVICES[service]["environment"]:
        assert re.search(rf"\$\{{(env:)?{name}\b", text), name


def test_proxy_takes_its_configuration() -> None:
    """The proxy's settings are valid, reach the collector where it listens, and name the secrets that are mounted."""
    config = parse(_yaml(_ROOT / "deploy" / "proxy.yaml"), Path("/etc/kube-audit-proxy"))
    assert config.telemetry is not None
    assert config.admin is not None
    assert config.telemetry.endpoint == "http://collector:4317"
    assert (config.port, config.admin.port) == (8443, 9444)
    secrets = {str(config.admin.token_file), *(str(path) for one in config.clusters for path in one.kubeconfig)}
    assert secrets == {f"/run/secrets/{name}" for name in _SERVICES["proxy"]["secrets"]}
    assert any(volume.endswith(f":{config.data_dir}") for volume in _SERVICES["proxy"]["volumes"])


def test_grafana_has_the_data_sources_of_the_dashboards() -> None:
    """Every data source that a dashboard, an alert or a link names is provisioned, under exactly that uid."""
    sources = _yaml(_CONFIGURATION / "grafana/provisioning/datasources/kubeaudit.yaml")["datasources"]
    known = {source["uid"] for source in sources}
    assert known == {"kubeaudit-loki", "kubeaudit-tempo", "kubeaudit-export"}
    files = [*(_ROOT / "dashboards" / "json").glob("*.json"), _ROOT / "dashboards" / "alerting" / "rules.yaml"]
    text = "\n".join(path.read_text("utf-8") for path in files)
    named = set(re.findall(r"(?:datasourceUid: |datasources/proxy/uid/)([\w-]+)", text))
    named |= set(re.findall(r'"type": "(?:loki|tempo)",\s*"uid": "([\w-]+)"', text))
    named |= set(re.findall(r'"uid": "([\w-]+)",\s*"type": "(?:loki|tempo)"', text))
    assert named - {"__expr__"} == known


def test_grafana_expands_only_what_it_should() -> None:
    """In provisioning a dollar sign is a variable that the container is given, a secret's file, or doubled."""
    text = (_CONFIGURATION / "grafana/provisioning/datasources/kubeaudit.yaml").read_text("utf-8")
    content = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    single = re.findall(r"(?<!\$)\$(?!\$)(__file\{[^}]+\}|\w+)", content)
    given = set(_SERVICES["grafana"]["environment"])
    secrets = {f"__file{{/run/secrets/{name}}}" for name in _SERVICES["grafana"]["secrets"]}
    assert set(single) <= given | secrets
    assert content.count("$") == len(single) + 2 * content.count("$$")


def test_grafana_loads_the_dashboards_that_are_mounted() -> None:
    """The provider looks where the dashboards are mounted, and nobody can change them there."""
    (provider,) = _yaml(_CONFIGURATION / "grafana/provisioning/dashboards/kubeaudit.yaml")["providers"]
    targets = {target: source for source, target in _mounts(("docker-compose.yml",))}
    assert targets[provider["options"]["path"]] == "./dashboards/json"
    assert (provider["disableDeletion"], provider["allowUiUpdates"]) == (True, False)


def test_image_runs_as_a_user_without_rights() -> None:
    """The image's user is a number and not root, its health check needs no shell, only sources reach the builder."""
    dockerfile = (_ROOT / "Dockerfile").read_text("utf-8")
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["65532:65532"]
    assert re.search(r'^  CMD \["python", "-c", ', dockerfile, re.MULTILINE)
    assert not re.search(r"^ARG ", dockerfile, re.MULTILINE)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE)
    allowed = re.findall(r"^!(.*)$", (_ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert set(" ".join(copied).split()) == set(allowed)


@pytest.mark.servers
def test_loki_answers_its_own_health_check(tmp_path: Path) -> None:
    """The health check of the compose file says yes to a Loki that is ready and no where there is none."""
    command = _SERVICES["loki"]["healthcheck"]["test"]
    assert command[1] == "/usr/bin/loki"
    loki = ensure("loki", print)["loki"]
    with TelemetryStack(tmp_path, _CONFIGURATION, progress=print, parts=("loki",)) as stack:
        check = [argument.replace("http://127.0.0.1:3100", stack.loki_url) for argument in command[2:]]
        assert subprocess.run([loki, *check], check=False, capture_output=True).returncode == 0
        stack.stop("loki")
        assert subprocess.run([loki, *check], check=False, capture_output=True).returncode != 0


@pytest.mark.servers
def test_prepare_makes_what_is_needed(tmp_path: Path) -> None:
    """The script makes every secret that the compose file mounts, readable in containers, and changes none later."""
    (tmp_path / "deploy" / "secrets").mkdir(parents=True)
    script = tmp_path / "deploy" / "prepare.sh"
    shutil.copyfile(_ROOT / "deploy" / "prepare.sh", script)
    authority = tmp_path / "ca.pem"
    authority.write_text("an authority", encoding="utf-8")
    kubeconfig = {
        "clusters": [
            {"name": name, "cluster": {"server": f"https://{name}:6443", "certificate-authority": str(authority)}}
            for name in ("one", "two")
        ],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "me"}} for name in ("one", "two")],
        "current-context": "one",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig), encoding="utf-8")
    environ = {"KUBECONFIG": str(tmp_path / "kubeconfig"), "PATH": f"{new_kubectl().parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", str(script), "two"], env=environ, check=True, capture_output=True)
    made = {path.name: path for path in script.with_name("secrets").iterdir()}
    assert set(made) == {Path(secret["file"]).name for secret in _COMPOSE["secrets"].values()}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in made.values())
    assert stat.S_IMODE(script.with_name("secrets").stat().st_mode) == 0o700
    (cluster,) = _yaml(made["kubeconfig"])["clusters"]
    assert cluster["cluster"]["server"] == "https://two:6443"
    assert "certificate-authority-data" in cluster["cluster"]
    before = {name: path.read_bytes() for name, path in made.items()}
    assert re.fullmatch(rb"[0-9a-f]{48}", before["export-token"])
    assert before["export-token"] != before["grafana-admin-password"]
    subprocess.run(["sh", str(script)], env=environ, check=True, capture_output=True)
    assert {name: path.read_bytes() for name, path in made.items()} == before
