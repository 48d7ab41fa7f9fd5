"""The SIEM files against what the collector takes: itself where it can be built, else its exporters' documentation."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import yaml

from kube_audit_proxy.demo.build import ensure
from servers.stack import CONFIGURATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_SIEM = CONFIGURATION / "siem"
_FILES = sorted(_SIEM.glob("*.yaml"))
_WHOLE = [path for path in _FILES if path.name != "kafka-sasl.yaml"]
_ACCEPTED = ("kafka", "kafka+kafka-sasl", "file", "otlp", "syslog", "kafka+file+otlp")
_DESCRIBED = ("splunk-hec", "elasticsearch", "s3")
_ENV = re.compile(r"\$\{env:(\w+)(?::-([^}]*))?\}")
_FILE = re.compile(r"\$\{file:[^}]*\}")
_DOCUMENTED = re.compile(r"^# ([A-Z0-9_]+)(?: {2,}(\S+|\([^)]*\))|$)", re.MULTILINE)

# Settings of contrib exporters that no Go module gives us, from their config.go and config.schema.yaml.
Schema: TypeAlias = "Mapping[str, Any]"
_TLS: Schema = {
    **dict.fromkeys(("ca_file", "cert_file", "key_file", "min_version", "max_version", "server_name_override"), str),
    "insecure": bool,
    "insecure_skip_verify": bool,
    "include_system_ca_certs_pool": bool,
    "reload_interval": str,
}
_QUEUE: Schema = {
    "enabled": bool,
    "num_consumers": int,
    "queue_size": int,
    "sizer": str,
    "block_on_overflow": bool,
    "wait_for_result": bool,
    "storage": str,
    "batch": {"flush_timeout": str, "min_size": int, "max_size": int, "sizer": str},
}
_RETRY: Schema = {
    "enabled": bool,
    **dict.fromkeys(("initial_interval", "max_interval", "max_elapsed_time"), str),
    "multiplier": (int, float),
    "randomization_factor": (int, float),
}
_HTTP: Schema = {
    "endpoint": str,
    "timeout": str,
    "tls": _TLS,
    "headers": dict,
    "compression": str,
    "proxy_url": str,
    "read_buffer_size": int,
    "write_buffer_size": int,
    "max_idle_conns": int,
    "max_idle_conns_per_host": int,
    "max_conns_per_host": int,
    "idle_conn_timeout": str,
    "disable_keep_alives": bool,
}
SCHEMAS: Mapping[str, Schema] = {
    "splunk_hec": {
        **_HTTP,
        "sending_queue": _QUEUE,
        "retry_on_failure": _RETRY,
        **dict.fromkeys(("token", "index", "source", "sourcetype", "splunk_app_name", "splunk_app_version"), str),
        **dict.fromkeys(("disable_compression", "export_raw", "health_check_enabled", "log_data_enabled"), bool),
        **dict.fromkeys(("max_content_length_logs", "max_event_size"), int),
        "health_path": str,
        "otel_to_hec_fields": {"severity_text": str, "severity_number": str},
    },
    "elasticsearch": {
        **_HTTP,
        "sending_queue": _QUEUE,
        "endpoints": list,
        "cloudid": str,
        **dict.fromkeys(("user", "password", "api_key", "logs_index", "pipeline"), str),
        "logs_dynamic_id": {"enabled": bool},
        "logs_dynamic_pipeline": {"enabled": bool},
        "mapping": {"mode": str, "allowed_modes": list},
        "discover": {"on_start": bool, "interval": str},
        "include_source_on_error": bool,
        "retry": {
            "enabled": bool,
            "max_retries": int,
            "initial_interval": str,
            "max_interval": str,
            "retry_on_status": list,
        },
    },
    "awss3": {
        "timeout": str,
        "sending_queue": _QUEUE,
        "retry_on_failure": _RETRY,
        "marshaler": str,
        "encoding": str,
        "encoding_file_extension": str,
        "resource_attrs_to_s3": {"s3_bucket": str, "s3_prefix": str},
        "s3uploader": {
            **dict.fromkeys(("region", "s3_bucket", "s3_prefix", "s3_base_prefix", "file_prefix", "endpoint"), str),
            **dict.fromkeys(("s3_partition_format", "s3_partition_timezone", "role_arn", "acl", "storage_class"), str),
            **dict.fromkeys(("compression", "retry_mode", "retry_max_backoff", "unique_key_func_name"), str),
            **dict.fromkeys(("s3_force_path_style", "disable_ssl"), bool),
            "retry_max_attempts": int,
        },
    },
}
_CHOICES = {
    "sizer": {"requests", "items", "bytes"},
    "mode": {"none", "raw", "ecs", "otel", "bodymap"},
    "marshaler": {"otlp_json", "otlp_proto", "sumo_ic", "body"},
    "unique_key_func_name": {"uuidv7"},
    "compression": {"gzip", "zstd"},
}
_REQUIRED = {
    "splunk_hec": ("endpoint", "token"),
    "elasticsearch": ("endpoints", "api_key"),
    "awss3": ("s3uploader",),
}
_SECRETS = {"token", "password", "api_key", "authorization"}
_VALUES = {
    "KAFKA_BROKERS": "a.example.com:9092,b.example.com:9092",
    "KAFKA_USERNAME": "kube-audit",
    "SPLUNK_HEC_URL": "https://splunk.example.com:8088/services/collector",
    "SYSLOG_HOST": "syslog.example.com",
    "ELASTICSEARCH_URL": "https://elastic.example.com:9200",
    "S3_BUCKET": "audit",
    "S3_REGION": "eu-central-1",
    "SIEM_OTLP": "https://collector.example.com:4317",
}


def _expanded(path: Path) -> dict[str, Any]:
    """Give a file's content with the required variables set and all others at their defaults."""
    text = _FILE.sub("a-secret", _ENV.sub(lambda found: _VALUES.get(found[1], found[2] or ""), path.read_text("utf-8")))
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _exporter(path: Path) -> tuple[str, dict[str, Any]]:
    ((name, settings),) = _expanded(path)["exporters"].items()
    return name, settings


def _problems(settings: Mapping[str, Any], schema: Schema, where: str) -> Iterator[str]:
    for key, value in settings.items():
        expected = schema.get(key)
        if expected is None:
            yield f"{where}{key} is not a setting"
        elif not isinstance(expected, type | tuple):
            yield from _problems(value, expected, f"{where}{key}.")
        elif value is None:
            # an empty variable is an empty text
            if expected is not str:
                yield f"{where}{key} is empty"
        elif not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            yield f"{where}{key} is {value!r}"
        elif value not in _CHOICES.get(key, {value} if isinstance(value, str) else [value]):
            yield f"{where}{key} cannot be {value!r}"


def test_every_file_is_checked() -> None:
    """Each SIEM file is either given to the real collector or compared with its exporter's documented settings."""
    built = {stem for name in _ACCEPTED for stem in name.split("+")}
    assert {path.stem for path in _FILES} == built | set(_DESCRIBED)


def test_readme_tells_of_every_file() -> None:
    """Whoever reads the README learns of each SIEM file and of each variable that has to be set for it."""
    readme = (CONFIGURATION / "README.md").read_text("utf-8")
    for path in _FILES:
        required = [name for name, default in _DOCUMENTED.findall(path.read_text("utf-8")) if default == "(required)"]
        (row,) = re.findall(rf"^\| `{re.escape(path.name)}`.*$", readme, re.MULTILINE)
        assert [name for name in required if f"`{name}`" not in row] == []


@pytest.mark.parametrize("stem", _DESCRIBED)
def test_settings_are_documented_ones(stem: str) -> None:
    """Exporters that cannot be built here get only settings that they document, of the right type, and all needed."""
    name, settings = _exporter(_SIEM / f"{stem}.yaml")
    kind = name.partition("/")[0]
    assert list(_problems(settings, SCHEMAS[kind], "")) == []
    assert all(settings.get(key) for key in _REQUIRED[kind])


def test_schema_finds_what_is_wrong() -> None:
    """An unknown setting, a wrong type and a value that is none of the known ones are noticed."""
    settings = {"tokn": "a", "timeout": 30, "sending_queue": {"sizer": "pounds", "batch": {"min_size": True}}}
    assert list(_problems(settings, SCHEMAS["splunk_hec"], "")) == [
        "tokn is not a setting",
        "timeout is 30",
        "sending_queue.sizer cannot be 'pounds'",
        "sending_queue.batch.min_size is True",
    ]


@pytest.mark.parametrize("path", _WHOLE, ids=lambda path: path.stem)
def test_base_is_left_alone(path: Path) -> None:
    """A SIEM file adds a pipeline, an exporter and processors of its own, and changes nothing of the base."""
    base = yaml.safe_load((CONFIGURATION / "otel-collector.yaml").read_text("utf-8"))
    added = _expanded(path)
    assert set(added) == {"processors", "exporters", "service"}
    assert set(added["service"]) == {"pipelines"}
    for section in ("processors", "exporters"):
        assert not set(added[section]) & set(base[section])
    ((name, pipeline),) = added["service"]["pipelines"].items()
    assert name.startswith("logs/siem-")
    assert pipeline["receivers"] == base["service"]["pipelines"]["logs"]["receivers"]
    assert pipeline["processors"][0] == "memory_limiter"
    assert set(pipeline["processors"][1:]) == set(added["processors"])
    assert pipeline["exporters"] == list(added["exporters"])


@pytest.mark.parametrize("path", _WHOLE, ids=lambda path: path.stem)
def test_nothing_is_given_up(path: Path) -> None:
    """Every exporter that can has a queue on disk that makes senders wait when full, and retries without an end."""
    name, settings = _exporter(path)
    if name.startswith("file/"):
        assert "sending_queue" not in settings
        return
    queue = settings["sending_queue"]
    assert (queue["storage"], queue["block_on_overflow"], queue["sizer"]) == ("file_storage", True, "bytes")
    if name.startswith("elasticsearch/"):
        assert settings["retry"]["max_retries"] >= 1_000_000
        assert {429, 500, 502, 503, 504} <= set(settings["retry"]["retry_on_status"])
    else:
        assert settings["retry_on_failure"]["max_elapsed_time"] == "0s"


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_files_hold_no_secret(path: Path) -> None:
    """Tokens and passwords come from files that are named by variables; none stands in the configuration."""
    for key, value in _leaves(yaml.safe_load(path.read_text("utf-8"))):
        if key in _SECRETS:
            assert re.fullmatch(r"\$\{file:\$\{env:\w+:-/run/secrets/[\w-]+\}\}", value), (key, value)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_variables_are_explained(path: Path) -> None:
    """The top of a file names each variable that it reads, with the default that it has, and no other."""
    head, _, rest = path.read_text("utf-8").partition("\n\n")
    explained = {name: default for name, default in _DOCUMENTED.findall(head) if name in head and name.isupper()}
    used = dict(_ENV.findall(rest))
    assert set(explained) == set(used)
    for name, default in used.items():
        if default:
            assert explained[name] == default, name
        else:
            assert explained[name].startswith("("), name


@pytest.mark.servers
@pytest.mark.parametrize("name", _ACCEPTED)
def test_collector_accepts(name: str, tmp_path: Path) -> None:
    """The real collector takes the file on top of the base, and several of them together."""
    otelcol = ensure("collector", print)["otelcol"]
    known = subprocess.run([otelcol, "components"], check=True, capture_output=True, text=True).stdout
    if name == "syslog" and "name: syslog" not in known:
        pytest.skip("this collector was built without the syslog exporter")
    secret = tmp_path / "secret"
    secret.write_text("a-secret", encoding="utf-8")
    files = [CONFIGURATION / "otel-collector.yaml", *(_SIEM / f"{one}.yaml" for one in name.split("+"))]
    secrets = dict.fromkeys(("KAFKA_PASSWORD_FILE", "SIEM_OTLP_AUTH_FILE"), str(secret))
    command = [str(otelcol), "validate", *(f"--config={file}" for file in files)]
    environ = {**_VALUES, **secrets, "OTELCOL_DATA": str(tmp_path)}
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _leaves(below, name)
    elif isinstance(value, list):
        for below in value:
            yield from _leaves(below, key)
    else:
        yield key, str(value)
