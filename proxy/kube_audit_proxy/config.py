"""The configuration: one frozen value, checked once, with every problem reported at the same time."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kube_audit_proxy.audit.redaction import DEFAULT_PATTERNS
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.kube.verbs import VerbClass

CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has a sentence for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """One cluster: the name it is called by, and the kubeconfig context that leads to it."""

    name: str
    kubeconfig: tuple[Path, ...] = ()
    """Files to read, merged; those kubectl would read if empty."""
    context: str = ""
    in_cluster: bool = False
    """Use the service account of the pod the proxy runs in."""
    own_user: str = ""
    """The name the cluster knows the credential by, once that has been asked."""


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """Where records are shipped to. The OTEL_EXPORTER_OTLP_* variables win over the first two.

    TLS, headers, compression and time-outs are told by those variables only: headers are secrets.
    """

    endpoint: str = ""
    protocol: str = ""
    signals: tuple[Signal, ...] = tuple(Signal)
    sample: float = 1.0
    """The share of traces whose spans are sent. Lines are sent of all calls, whatever this says."""
    command_idle: float = 5.0
    """After how long a command that is quiet is taken to be over."""
    heartbeat: float = 15.0


@dataclass(frozen=True, slots=True)
class AdminConfig:
    """The listener for operators: metrics, health, and exports, for which a token is asked."""

    host: str = "127.0.0.1"
    port: int = 9444
    token_file: Path | None = None
    """Holds the token; one is made in the data directory if there is none."""
    tls: bool = False
    """Use the proxy's certificate."""


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """How long the trail is kept; None: for ever.

    What has not been shipped yet, where telemetry is configured, is kept beyond `keep`, but not beyond `hard_limit`.
    """

    keep: float | None = None
    hard_limit: float | None = None
    keep_bytes: int | None = None
    """How large each writer's journal may become; what is older goes, as with `keep`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything a proxy needs to know. Times are in seconds."""

    data_dir: Path
    clusters: tuple[ClusterConfig, ...]
    host: str = "127.0.0.1"
    port: int = 8443
    url: str = ""
    """Where clients reach the proxy; `https://<host>:<port>` if empty."""
    certificate: Path | None = None
    key: Path | None = None
    workers: int = 1
    grace: float = 30.0
    """How long running calls may go on after SIGTERM."""
    answer_timeout: float = 75.0
    """How long the API server may take to begin an answer that is not long-running; it gives itself 60 s."""
    journal_timeout: float = 5.0
    """How long a start may take to become durable before its call is refused."""
    segment_bytes: int = 64 << 20
    relaxed: frozenset[VerbClass] = frozenset()
    """Classes of calls that are made even if their start cannot be recorded durably."""
    redact: tuple[str, ...] = field(default=DEFAULT_PATTERNS)
    """Patterns of what is left out of recorded exec command lines."""
    telemetry: TelemetryConfig | None = None
    """Where records are shipped to; None: nowhere."""
    admin: AdminConfig | None = None
    """The listener for metrics, health and exports; None: none."""
    retention: RetentionConfig = RetentionConfig()

    @property
    def journal(self) -> Path:
        """Where the trail is kept."""
        return self.data_dir / "journal"

    @property
    def index(self) -> Path:
        """The read model of the trail."""
        return self.data_dir / "index.db"

    @property
    def shipped(self) -> Path:
        """How far shipping has come."""
        return self.data_dir / "ship.db"

    @property
    def tokens(self) -> Path:
        """Where issued tokens' hashes are kept."""
        return self.data_dir / "tokens"


class _Reader:
    """Takes values out of a mapping, noting what is wrong instead of stopping at it."""

    def __init__(self, values: Mapping[str, Any], where: str, problems: list[str]) -> None:
        self._values = dict(values)
        self._where = where
        self._problems = problems

    def take(
        self, key: str, kind: type | tuple[type, ...], default: Any, check: Callable[[Any], str | None] | None = None
    ) -> Any:
        value = self._values.pop(key, None)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.wrong(key, f"is to be a {' or '.join(k.__name__ for k in kinds)}, not {value!r}")
            return default
        problem = check(value) if check else None
        if problem:
            self.wrong(key, problem)
            return default
        return value

    def wrong(self, key: str, what: str) -> None:
        self._problems.append(f"{self._where}{key} {what}")

    def finish(self) -> None:
        for key in self._values:
            self.wrong(key, "is not a setting")


def parse(values: Mapping[str, Any], home: Path) -> Config:
    """Make a configuration of a mapping (a YAML file's content). Relative paths are relative to `home`.

    Raises ConfigError that lists every problem.
    """
    problems: list[str] = []
    top = _Reader(values, "", problems)
    listen = top.take("listen", str, "127.0.0.1:8443", _listen_problem)
    host, _, port = listen.rpartition(":")
    told = len(problems)
    data_dir = top.take("data_dir", str, None)
    if not data_dir and len(problems) == told:
        problems.append("data_dir is missing: the directory for the journal, the index and the tokens")
    tls = _Reader(top.take("tls", dict, {}), "tls.", problems)
    certificate, key = tls.take("certificate", str, None), tls.take("key", str, None)
    if bool(certificate) != bool(key):
        problems.append("tls needs both certificate and key, or neither for a certificate of the proxy's own")
    tls.finish()
    journal = _Reader(top.take("journal", dict, {}), "journal.", problems)
    relaxed = journal.take("relaxed", list, [], _relaxed_problem)
    journal_timeout = journal.take("timeout", (int, float), 5.0, _positive)
    segment_bytes = journal.take("segment_bytes", int, 64 << 20, _positive)
    journal.finish()
    clusters = tuple(_clusters(top.take("clusters", list, []), home, problems))
    config = {
        "url": top.take("url", str, "", _url_problem).rstrip("/"),
        "workers": top.take("workers", int, 1, _positive),
        "grace": float(top.take("grace_period", (int, float), 30.0, _not_negative)),
        "answer_timeout": float(top.take("answer_timeout", (int, float), 75.0, _positive)),
        "redact": tuple(top.take("redact", list, list(DEFAULT_PATTERNS), _patterns_problem)),
        "telemetry": _telemetry(top, problems),
        "admin": _admin(top, home, problems),
        "retention": _retention(top, problems),
    }
    top.finish()
    if problems:
        raise ConfigError(problems)
    return Config(
        data_dir=home / data_dir,
        clusters=clusters,
        host=host.strip("[]"),
        port=int(port),
        certificate=home / certificate if certificate else None,
        key=home / key if key else None,
        journal_timeout=float(journal_timeout),
        segment_bytes=segment_bytes,
        relaxed=frozenset(map(VerbClass, relaxed)),
        **config,
    )


def dump(config: Config) -> dict[str, Any]:
    """The mapping that `parse` makes the same configuration of."""
    return {
        "data_dir": str(config.data_dir.absolute()),
        "listen": _address(config.host, config.port),
        "url": config.url,
        "tls": {"certificate": str(config.certificate), "key": str(config.key)} if config.certificate else {},
        "workers": config.workers,
        "grace_period": config.grace,
        "answer_timeout": config.answer_timeout,
        "redact": list(config.redact),
        "telemetry": _dump_telemetry(config.telemetry),
        "admin": _dump_admin(config.admin),
        "retention": dataclasses.asdict(config.retention),
        "journal": {
            "relaxed": sorted(config.relaxed),
            "timeout": config.journal_timeout,
            "segment_bytes": config.segment_bytes,
        },
        "clusters": [
            {
                "name": cluster.name,
                "kubeconfig": [str(path.absolute()) for path in cluster.kubeconfig],
                "context": cluster.context,
                "in_cluster": cluster.in_cluster,
                "own_user": cluster.own_user,
            }
            for cluster in config.clusters
        ],
    }


def _telemetry(top: _Reader, problems: list[str]) -> TelemetryConfig | None:
    section = top.take("telemetry", dict, None)
    if section is None:
        return None
    default = TelemetryConfig()
    reader = _Reader(section, "telemetry.", problems)
    found = TelemetryConfig(
        endpoint=reader.take("endpoint", str, "", _endpoint_problem),
        protocol=reader.take("protocol", str, "", _one_of("grpc", "http/protobuf")),
        signals=tuple(map(Signal, reader.take("signals", list, list(Signal), _signals_problem))),
        sample=float(reader.take("sample", (int, float), default.sample, _share_problem)),
        command_idle=float(reader.take("command_idle", (int, float), default.command_idle, _positive)),
        heartbeat=float(reader.take("heartbeat", (int, float), default.heartbeat, _positive)),
    )
    reader.finish()
    return found


def _dump_telemetry(telemetry: TelemetryConfig | None) -> dict[str, Any] | None:
    if telemetry is None:
        return None
    own = {"protocol": telemetry.protocol} if telemetry.protocol else {}
    return own | {
        "endpoint": telemetry.endpoint,
        "signals": list(telemetry.signals),
        "sample": telemetry.sample,
        "command_idle": telemetry.command_idle,
        "heartbeat": telemetry.heartbeat,
    }


def _admin(top: _Reader, home: Path, problems: list[str]) -> AdminConfig | None:
    section = top.take("admin", dict, None)
    if section is None:
        return None
    reader = _Reader(section, "admin.", problems)
    host, _, port = reader.take("listen", str, "127.0.0.1:9444", _listen_problem).rpartition(":")
    token_file = reader.take("token_file", str, None)
    tls = reader.take("tls", bool, False)
    reader.finish()
    return AdminConfig(host.strip("[]"), int(port), home / token_file if token_file else None, tls)


def _dump_admin(admin: AdminConfig | None) -> dict[str, Any] | None:
    if admin is None:
        return None
    token = {"token_file": str(admin.token_file.absolute())} if admin.token_file else {}
    return {"listen": _address(admin.host, admin.port), "tls": admin.tls} | token


def _retention(top: _Reader, problems: list[str]) -> RetentionConfig:
    reader = _Reader(top.take("retention", dict, {}), "retention.", problems)
    keep = _seconds(reader.take("keep", (str, int, float), None, _span_problem))
    hard_limit = _seconds(reader.take("hard_limit", (str, int, float), None, _span_problem))
    keep_bytes = reader.take("keep_bytes", int, None, _positive)
    if keep is not None and hard_limit is not None and hard_limit < keep:
        reader.wrong("hard_limit", "is to be longer than retention.keep")
    reader.finish()
    return RetentionConfig(keep, hard_limit, keep_bytes)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _seconds(value: str | float | None) -> float | None:
    if not isinstance(value, str):
        return float(value) if value is not None else None
    found = _SPAN.fullmatch(value)
    return float(found[1]) * _SECONDS[found[2]] if found else None


def _span_problem(value: str | float) -> str | None:
    span = _seconds(value)
    return None if span else f"is to be a time such as 30d or 12h, not {value!r}"


def _share_problem(value: float) -> str | None:
    return None if 0 <= value <= 1 else f"is to be from 0 to 1, not {value}"


def _endpoint_problem(value: str) -> str | None:
    if not value or re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", value):
        return None
    return f"is to be http://HOST:PORT or https://HOST:PORT, not {value!r}"


def _one_of(*known: str) -> Callable[[str], str | None]:
    return lambda value: None if value in known else f"knows {', '.join(known)}; not {value!r}"


def _signals_problem(value: list[Any]) -> str | None:
    known = [member.value for member in Signal]
    wrong = [str(entry) for entry in value if entry not in known]
    return f"knows {', '.join(known)}; not {', '.join(wrong)}" if wrong or not value else None


def _clusters(entries: list[Any], home: Path, problems: list[str]) -> Iterable[ClusterConfig]:
    if not entries:
        problems.append("clusters is missing: name at least one, with the kubeconfig context that leads to it")
    names: set[str] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problems.append(f"clusters[{number}] is to be a mapping with name and context")
            continue
        one = _Reader(entry, f"clusters[{number}].", problems)
        if entry.get("name") is None:
            one.wrong("name", "is missing")
        name = one.take("name", str, "", _cluster_name_problem)
        paths = one.take("kubeconfig", (str, list), [], _paths_problem)
        cluster = ClusterConfig(
            name=name,
            kubeconfig=tuple(home / path for path in ([paths] if isinstance(paths, str) else paths)),
            context=one.take("context", str, ""),
            in_cluster=one.take("in_cluster", bool, False),
            own_user=one.take("own_user", str, ""),
        )
        one.finish()
        # kubectl keeps what it discovers in files where - and _ are one: such clusters would share it.
        if name and name.replace("-", "_") in names:
            one.wrong("name", f"{name!r} is taken already")
        names.add(name.replace("-", "_"))
        yield cluster


def _listen_problem(value: str) -> str | None:
    host, _, port = value.rpartition(":")
    if host.strip("[]") and port.isdecimal() and int(port) < 65536:
        return None
    return f"is to be HOST:PORT (127.0.0.1:8443; port 0 picks a free one), not {value!r}"


def _cluster_name_problem(value: str) -> str | None:
    if CLUSTER_NAME.fullmatch(value):
        return None
    return f"{value!r} is not a name: use lower-case letters, digits and dashes, at most 63"


def _url_problem(value: str) -> str | None:
    return (
        None
        if not value or re.fullmatch(r"https://[^/?#\s]+/?", value)
        else f"is to be https://HOST[:PORT], not {value!r}"
    )


def _not_negative(value: float) -> str | None:
    return None if value >= 0 else f"is to be 0 or more, not {value}"


def _paths_problem(value: str | list[Any]) -> str | None:
    paths = [value] if isinstance(value, str) else value
    return None if all(isinstance(path, str) for path in paths) else f"is to name files, not {value!r}"


def _positive(value: float) -> str | None:
    return None if value > 0 else f"is to be more than 0, not {value}"


def _relaxed_problem(value: list[Any]) -> str | None:
    known = [member.value for member in VerbClass]
    wrong = [str(entry) for entry in value if entry not in known]
    return f"knows {', '.join(known)}; not {', '.join(wrong)}" if wrong else None


def _patterns_problem(value: list[Any]) -> str | None:
    for pattern in value:
        if not isinstance(pattern, str):
            return f"has a pattern that is no text: {pattern!r}"
        try:
            re.compile(pattern)
        except re.error as error:
            return f"has a pattern that is not a regular expression ({error}): {pattern!r}"
    return None
