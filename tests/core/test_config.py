"""The configuration: what is taken, what is refused, and that all problems are told at once."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from kube_audit_proxy.audit.redaction import DEFAULT_PATTERNS
from kube_audit_proxy.config import (
    AdminConfig,
    ClusterConfig,
    Config,
    ConfigError,
    RetentionConfig,
    TelemetryConfig,
    dump,
    parse,
)
from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.kube.verbs import VerbClass

HOME = Path("/etc/proxy")
LEAST = {"data_dir": "data", "clusters": [{"name": "demo"}]}
FULL = """
data_dir: /var/lib/kube-audit-proxy
listen: 0.0.0.0:443
url: https://kube.example.com/
tls: {certificate: tls.crt, key: /run/tls.key}
workers: 2
grace_period: 5
answer_timeout: 1.5
redact: ["hunter(2)", "x"]
journal: {relaxed: [read, exec], timeout: 2, segment_bytes: 8388608}
telemetry: {endpoint: "https://collector:4318/", protocol: http/protobuf, signals: [logs],
            sample: 0.5, command_idle: 3, heartbeat: 60}
admin: {listen: "[::1]:9000", token_file: admin.token, tls: true}
retention: {keep: 30d, hard_limit: 90d, keep_bytes: 1000}
clusters:
  - {name: prod-eu, kubeconfig: prod.kubeconfig, context: admin@prod}
  - {name: here, in_cluster: true, own_user: "system:serviceaccount:a:b"}
  - {name: "1", kubeconfig: [a, /b]}
"""


def problems(**settings: Any) -> tuple[str, ...]:
    """Give the problems of the least configuration with these settings changed."""
    with pytest.raises(ConfigError) as caught:
        parse({**LEAST, **settings}, HOME)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_the_least_configuration() -> None:
    """A directory and a cluster are enough; paths are relative to the file's own directory."""
    config = parse(LEAST, HOME)
    assert config == Config(HOME / "data", (ClusterConfig("demo"),))
    assert (config.host, config.port, config.url, config.workers) == ("127.0.0.1", 8443, "", 1)
    assert config.redact == DEFAULT_PATTERNS
    assert config.relaxed == frozenset()
    assert (config.journal, config.index, config.tokens) == (
        HOME / "data" / "journal",
        HOME / "data" / "index.db",
        HOME / "data" / "tokens",
    )


def test_a_full_configuration() -> None:
    """Every setting ends where it belongs, in the units the code counts in."""
    assert parse(yaml.safe_load(FULL), HOME) == Config(
        data_dir=Path("/var/lib/kube-audit-proxy"),
        clusters=(
            ClusterConfig("prod-eu", (HOME / "prod.kubeconfig",), "admin@prod"),
            ClusterConfig("here", in_cluster=True, own_user="system:serviceaccount:a:b"),
            ClusterConfig("1", (HOME / "a", Path("/b"))),
        ),
        host="0.0.0.0",  # noqa: S104 - nobody listens
        port=443,
        url="https://kube.example.com",
        certificate=HOME / "tls.crt",
        key=Path("/run/tls.key"),
        workers=2,
        grace=5.0,
        answer_timeout=1.5,
        journal_timeout=2.0,
        segment_bytes=8 << 20,
        relaxed=frozenset({VerbClass.READ, VerbClass.EXEC}),
        redact=("hunter(2)", "x"),
        telemetry=TelemetryConfig("https://collector:4318/", "http/protobuf", (Signal.LOGS,), 0.5, 3.0, 60.0),
        admin=AdminConfig("::1", 9000, HOME / "admin.token", tls=True),
        retention=RetentionConfig(30 * 86_400.0, 90 * 86_400.0, 1000),
    )


@pytest.mark.parametrize(
    "values",
    [
        LEAST,
        yaml.safe_load(FULL),
        {**LEAST, "listen": "[::1]:0"},
        {**LEAST, "redact": []},
        {**LEAST, "url": "https://[::1]:8443"},
        {**LEAST, "grace_period": 0},
        {**LEAST, "telemetry": {}, "admin": {}, "retention": {"keep": 1.5}},
    ],
    ids=["least", "full", "ipv6", "no-redaction", "url", "no-grace", "followers"],
)
def test_round_trip(values: dict[str, Any]) -> None:
    """A worker that gets the settings as JSON has the very same configuration, wherever it runs."""
    config = parse(values, HOME)
    assert parse(orjson.loads(orjson.dumps(dump(config))), Path("/elsewhere")) == config


@pytest.mark.parametrize("segment_bytes", [1 << 20, 4096])
def test_round_trip_of_small_segments(segment_bytes: int) -> None:
    """A configuration made in the program reaches its workers unchanged."""
    config = Config(HOME, (ClusterConfig("demo"),), segment_bytes=segment_bytes)
    assert parse(dump(config), HOME) == config


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:8443", "::1", 8443),
        ("[::]:1", "::", 1),
    ],
)
def test_listen(listen: str, host: str, port: int) -> None:
    """Where to listen is a host and a port, an IPv6 address in brackets."""
    config = parse({**LEAST, "listen": listen}, HOME)
    assert (config.host, config.port) == (host, port)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"listen": "8443"}, "listen is to be HOST:PORT"),
        ({"listen": ":8443"}, "listen is to be HOST:PORT"),
        ({"listen": "host:"}, "listen is to be HOST:PORT"),
        ({"listen": "host:65536"}, "listen is to be HOST:PORT"),
        ({"listen": "host:-1"}, "listen is to be HOST:PORT"),
        ({"listen": "host:x"}, "listen is to be HOST:PORT"),
        ({"listen": 8443}, "listen is to be a str, not 8443"),
        ({"telemetry": {"endpoint": "collector:4317"}}, "telemetry.endpoint is to be http://HOST:PORT"),
        ({"telemetry": {"protocol": "http/json"}}, "telemetry.protocol knows grpc, http/protobuf"),
        ({"telemetry": {"signals": ["metrics"]}}, "telemetry.signals knows logs, traces; not metrics"),
        ({"telemetry": {"sample": 2}}, "telemetry.sample is to be from 0 to 1, not 2"),
        ({"telemetry": {"heartbeat": 0}}, "telemetry.heartbeat is to be more than 0"),
        ({"telemetry": {"headers": "x"}}, "telemetry.headers is not a setting"),
        ({"admin": {"listen": "9444"}}, "admin.listen is to be HOST:PORT"),
        ({"retention": {"keep": "a month"}}, "retention.keep is to be a time such as 30d or 12h, not 'a month'"),
        ({"retention": {"keep": 0}}, "retention.keep is to be a time such as 30d or 12h, not 0"),
        ({"retention": {"keep": "9d", "hard_limit": "1w"}}, "retention.hard_limit is to be longer than retention.keep"),
        ({"data_dir": ""}, "data_dir is missing"),
        ({"data_dir": None}, "data_dir is missing"),
        ({"url": "http://x"}, "url is to be https://HOST[:PORT]"),
        ({"url": "https://x/prefix"}, "url is to be https://HOST[:PORT]"),
        ({"url": "https://"}, "url is to be https://HOST[:PORT]"),
        ({"url": "kube.example.com"}, "url is to be https://HOST[:PORT]"),
        ({"tls": {"certificate": "c"}}, "tls needs both"),
        ({"tls": {"key": "c"}}, "tls needs both"),
        ({"tls": "c"}, "tls is to be a dict"),
        ({"tls": {"certificate": "c", "key": "k", "ca": "x"}}, "tls.ca is not a setting"),
        ({"workers": 0}, "workers is to be more than 0, not 0"),
        ({"workers": -1}, "workers is to be more than 0"),
        ({"workers": True}, "workers is to be a int, not True"),
        ({"workers": "2"}, "workers is to be a int, not '2'"),
        ({"workers": 1.5}, "workers is to be a int"),
        ({"answer_timeout": 0}, "answer_timeout is to be more than 0"),
        ({"answer_timeout": float("nan")}, "answer_timeout is to be more than 0"),
        ({"grace_period": "30s"}, "grace_period is to be a int or float, not '30s'"),
        ({"journal": {"timeout": -1}}, "journal.timeout is to be more than 0"),
        ({"journal": {"segment_bytes": 0}}, "journal.segment_bytes is to be more than 0"),
        ({"journal": {"segment_bytes": 0.5}}, "journal.segment_bytes is to be a int"),
        ({"journal": {"relaxed": "read"}}, "journal.relaxed is to be a list"),
        ({"journal": {"relaxed": ["read", "list", 5]}}, "journal.relaxed knows read, write, exec; not list, 5"),
        ({"journal": {"relax": []}}, "journal.relax is not a setting"),
        ({"redact": "x"}, "redact is to be a list"),
        ({"redact": ["fine", "("]}, "redact has a pattern that is not a regular expression"),
        ({"redact": [5]}, "redact has a pattern that is no text"),
        ({"colour": "red"}, "colour is not a setting"),
        ({5: "x"}, "5 is not a setting"),
        ({"clusters": []}, "clusters is missing"),
        ({"clusters": None}, "clusters is missing"),
        ({"clusters": {"name": "demo"}}, "clusters is to be a list"),
        ({"clusters": ["demo"]}, "clusters[0] is to be a mapping"),
        ({"clusters": [{}]}, "clusters[0].name is missing"),
        ({"clusters": [{"name": ""}]}, "clusters[0].name '' is not a name"),
        ({"clusters": [{"name": 5}]}, "clusters[0].name is to be a str, not 5"),
        ({"clusters": [{"name": "a", "context": 5}]}, "clusters[0].context is to be a str"),
        ({"clusters": [{"name": "a", "in_cluster": "yes"}]}, "clusters[0].in_cluster is to be a bool"),
        ({"clusters": [{"name": "a", "kubeconfig": 5}]}, "clusters[0].kubeconfig is to be a str or list"),
        ({"clusters": [{"name": "a"}, {"name": "b", "server": "x"}]}, "clusters[1].server is not a setting"),
    ],
    ids=lambda part: None if isinstance(part, dict) else part[:40],
)
def test_one_problem(settings: dict[Any, Any], told: str) -> None:
    """Each mistake is told by a sentence that names the setting, and what is given instead of a default is told so."""
    with pytest.raises(ConfigError) as caught:
        parse({**LEAST, **settings}, HOME)
    assert any(problem.startswith(told) for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("name", ["a", "0", "demo", "prod-eu1", "a--b", "x" * 63, "1-1"], ids=lambda name: name[:10])
def test_cluster_names(name: str) -> None:
    """Lower-case letters, digits and inner dashes make a name."""
    assert parse({**LEAST, "clusters": [{"name": name}]}, HOME).clusters[0].name == name


@pytest.mark.parametrize(
    "name", ["A", "a_b", "-a", "a-", "a.b", "a b", "x" * 64, "a/b", "demo\n", "\xe9", "*", "..", "%61"], ids=ascii
)
def test_no_cluster_names(name: str) -> None:
    """Whatever would be another name in a path or in kubectl's cache is refused."""
    (problem,) = problems(clusters=[{"name": name}])
    assert "is not a name" in problem


def fresh(name: str) -> str:
    """Give a name as another string object, as a parser does."""
    return "".join(list(name))


@pytest.mark.parametrize(
    "names",
    [
        ["demo", fresh("demo")],
        ["x", "demo", "y", fresh("demo")],
        pytest.param(["demo"] * 2),
        pytest.param([fresh("a"), fresh("a")]),
    ],
    ids=["two", "four", "same-object", "one-letter"],
)
def test_names_are_unique(names: list[str]) -> None:
    """Two clusters of one name are refused: calls to one would go to the other."""
    (problem,) = problems(clusters=[{"name": name} for name in names])
    assert problem == f"clusters[{len(names) - 1}].name {names[-1]!r} is taken already"


def test_dashes_and_underscores_would_be_one() -> None:
    """Names that kubectl's cache could not tell apart cannot both be given, as one of them is none at all."""
    assert len(problems(clusters=[{"name": "prod-eu"}, {"name": "prod_eu"}])) == 1


def test_every_problem_is_told_at_once() -> None:
    """One reading tells all that is wrong, in the order of the file's sections."""
    found = problems(
        data_dir=None,
        listen="x",
        tls={"key": "k", "x": 1},
        journal={"timeout": 0, "relaxed": ["all"]},
        clusters=["a", {"name": "B", "y": 1}],
        workers=0,
        z=1,
    )
    starts = (
        "listen is", "data_dir is", "tls needs", "tls.x is", "journal.relaxed knows", "journal.timeout is",
        "clusters[0] is", "clusters[1].name 'B'", "clusters[1].y is", "workers is", "z is",
    )  # fmt: skip
    assert len(found) == len(starts)
    assert [problem for problem, start in zip(found, starts, strict=True) if not problem.startswith(start)] == []


@pytest.mark.parametrize(
    "settings",
    [
        {"clusters": [{"name": None}]},
        {"clusters": [{"name": "a", "kubeconfig": [5]}]},
        {"grace_period": -1},
        {"redact": [b"x"]},
        {"listen": "[]:80"},
        {"url": "https://x\n"},
        {"url": "https://x?y#z"},
    ],
    ids=str,
)
def test_what_should_be_a_problem(settings: dict[str, Any]) -> None:
    """A name left blank, a path that is none, a time below zero and the like are told as problems."""
    with pytest.raises(ConfigError):
        parse({**LEAST, **settings}, HOME)


def test_a_problem_is_told_once() -> None:
    """A data_dir of the wrong type is one problem, not two."""
    assert len(problems(data_dir=5)) == 1
