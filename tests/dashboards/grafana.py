"""Grafana's own code, and its linter: fetched and built once, into the cache of the servers."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kube_audit_proxy.demo.build import cache_root

Columns = dict[str, list[Any]]

_HERE = Path(__file__).parent
_BROWSER = _HERE / "grafana-data"
_LINTER = _HERE / "linter"


class Grafana:
    """What Grafana runs in a browser, run by Node. `extractFields` is not in the library: `table` stands in for it."""

    def __init__(self, node: subprocess.Popen[str]) -> None:
        self._node = node

    def broken(self, language: str, queries: Sequence[str]) -> list[str]:
        """Return the queries that Grafana's grammar of `logql` or `traceql` does not accept."""
        answer: list[str] = self._ask(do="parse", language=language, queries=list(queries))
        return answer

    def parameters(self, values: Mapping[str, object]) -> str:
        """Return a query string as Grafana writes it."""
        answer: str = self._ask(do="parameters", values=dict(values))
        return answer

    def table(self, panel: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> Columns:
        """Return the columns of a table panel by their titles, in their order, for the frames of its queries."""
        transformations = list(panel["transformations"])
        if transformations[0]["id"] == "extractFields":
            assert transformations.pop(0)["options"] == {"source": "labels", "replace": False, "keepTime": False}
        tables = self._ask(do="transform", frames=list(frames), transformations=transformations)
        assert len(tables) <= 1, "a table panel shows one table"
        return {column["title"]: column["values"] for column in tables[0]} if tables else {}

    def _ask(self, **request: object) -> Any:
        assert self._node.stdin is not None
        assert self._node.stdout is not None
        self._node.stdin.write(json.dumps(request) + "\n")
        self._node.stdin.flush()
        answer = json.loads(self._node.stdout.readline())
        assert "failed" not in answer, answer
        return answer


@contextmanager
def grafana_in_node() -> Iterator[Grafana]:
    """Start Grafana's library, which npm fetches the first time; end it with the block."""
    environ = {**os.environ, "NODE_PATH": str(library() / "node_modules")}
    with subprocess.Popen(
        ["node", _BROWSER / "grafana.cjs"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        yield Grafana(node)


def library() -> Path:
    """Return the folder with Grafana's library, which npm fetches the first time."""
    return _once("grafana-data", [_BROWSER / "package.json", _BROWSER / "package-lock.json"], _npm)


def linter() -> Path:
    """Return Grafana's linter of dashboards, which is built the first time."""
    sources = sorted(path for path in _LINTER.rglob("*") if path.is_file())
    return _once("dashboard-linter", sources, _go) / "dashboard-linter"


def lines_frame(ref: str, streams: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return Loki's streams as the frame that Grafana has once `extractFields` has made columns of the labels."""
    lines = [(stream["stream"], int(time), line) for stream in streams for time, line in stream["values"]]
    labels = list(dict.fromkeys(label for stream, _, _ in lines for label in stream))
    trace = [stream.get("trace_id") for stream, _, _ in lines]
    return {
        "refId": ref,
        "fields": [
            {"name": "labels", "type": "other", "values": [stream for stream, _, _ in lines]},
            {"name": "Time", "type": "time", "values": [time / 1e6 for _, time, _ in lines]},
            {"name": "Line", "type": "string", "values": [line for _, _, line in lines]},
            {"name": "tsNs", "type": "string", "values": [str(time) for _, time, _ in lines]},
            *({"name": "Trace", "type": "string", "values": trace} for _ in "1" if any(trace)),
            *(
                {"name": label, "type": "string", "values": [stream.get(label) for stream, _, _ in lines]}
                for label in labels
            ),
        ],
    }


def numbers_frame(ref: str, series: Sequence[Mapping[str, Any]], *, alone: bool) -> dict[str, Any]:
    """Return the series of an instant query as the one table that Grafana makes of them."""
    labels = list(dict.fromkeys(label for each in series for label in each["metric"]))
    return {
        "refId": ref,
        "fields": [
            {"name": "Time", "type": "time", "values": [each["value"][0] * 1000 for each in series]},
            *(
                {"name": label, "type": "string", "values": [each["metric"].get(label) for each in series]}
                for label in labels
            ),
            {
                "name": "Value" if alone else f"Value #{ref}",
                "type": "number",
                "values": [float(each["value"][1]) for each in series],
            },
        ],
    }


def _once(name: str, sources: Sequence[Path], make: Any) -> Path:
    digest = hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:16]
    folder = cache_root(os.environ) / f"{name}-{digest}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            make(made)
            try:
                made.rename(folder)
            except OSError:
                assert folder.exists()  # somebody else was as quick
    return folder


def _npm(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(_BROWSER / name, folder / name)
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)


def _go(folder: Path) -> None:
    source = folder / "source"
    shutil.copytree(_LINTER, source)
    program = folder / "dashboard-linter"
    environ = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "", "PWD": str(source)}
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", str(program)]
    _run(["go", "build", *flags, "github.com/grafana/dashboard-linter"], source, environ)


def _run(argv: Sequence[str], folder: Path, environ: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, **(environ or {})}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
