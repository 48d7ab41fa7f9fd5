"""The modules that only compute neither wait, talk nor look around: nothing they import does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kube_audit_proxy

PACKAGE = Path(kube_audit_proxy.__file__).parent
ROOT = PACKAGE.parent
BANNED = frozenset({"tornado", "asyncio", "socket", "sqlite3", "time", "os", "random", "subprocess"})
MAY = {"kube_audit_proxy.cluster.proxy_kubeconfig": frozenset({"os"})}
"""What a module may have all the same: that one also writes what it renders."""

PURE = (
    "kube",
    "audit",
    "journal/line.py",
    "journal/chain.py",
    "gateway/headers.py",
    "gateway/route.py",
    "gateway/describe.py",
    "identity/impersonation.py",
    "index/filters.py",
    "index/pairs.py",
    "index/queries.py",
    "index/trigrams.py",
    "export/csv.py",
    "export/names.py",
    "journal/retention.py",
    "loki/logql.py",
    "loki/order.py",
    "loki/predicate.py",
    "admin/grafana_query.py",
    "admin/grafana_time.py",
    "telemetry/attributes.py",
    "telemetry/commands.py",
    "telemetry/entries.py",
    "telemetry/environment.py",
    "telemetry/lines.py",
    "telemetry/protobuf.py",
    "telemetry/route.py",
    "telemetry/spans.py",
    "telemetry/times.py",
    "cluster/proxy_kubeconfig.py",
)


def dotted(path: Path) -> str:
    """Give the module in a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def file_of(module: str) -> Path | None:
    """Give the file of a module of the package; None for others and for names within a module."""
    base = ROOT.joinpath(*module.split("."))
    found = (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
    return next(found, None) if module.split(".", maxsplit=1)[0] == PACKAGE.name else None


def imports(source: str, module: str, *, is_package: bool) -> set[str]:
    """Give all that a source names in imports, within functions too; of `from a import b` both a and a.b."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    return found


def reached(module: str) -> dict[str, tuple[str, ...]]:
    """Give every module that this one's import loads from the package, with the way that leads to it."""
    ways: dict[str, tuple[str, ...]] = {}
    open_ways: list[tuple[str, ...]] = [(module,)]
    while open_ways:
        way = open_ways.pop()
        path = file_of(way[-1])
        if path is None or way[-1] in ways:
            continue
        ways[way[-1]] = way
        parents = [way[-1].rpartition(".")[0]] if "." in way[-1] else []
        names = imports(path.read_text(), way[-1], is_package=path.name == "__init__.py")
        open_ways += [(*way, name) for name in sorted(names) + parents]
    return ways


def pure_modules() -> list[str]:
    """Give the modules that only compute."""
    paths = [PACKAGE / name for name in PURE]
    files = [file for path in paths for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return [dotted(file) for file in files]


@pytest.mark.parametrize("module", pure_modules())
def test_pure_modules_import_nothing_that_acts(module: str) -> None:
    """No clock, network, process, descriptor, database or chance, directly or through the package's own modules."""
    wrong = []
    for name, way in reached(module).items():
        path = file_of(name)
        assert path is not None
        found = {one.split(".")[0] for one in imports(path.read_text(), name, is_package=path.name == "__init__.py")}
        wrong += [f"{' -> '.join(way)} -> {one}" for one in sorted(found & BANNED - MAY.get(name, frozenset()))]
    assert wrong == []


def test_the_walk_reaches_what_it_is_to_reach() -> None:
    """The proof is not empty: modules are found, through `from package import module` and relative imports too."""
    assert len(pure_modules()) > 30
    assert "kube_audit_proxy.kube.requestinfo" in reached("kube_audit_proxy.gateway.headers")
    assert "kube_audit_proxy" in reached("kube_audit_proxy.gateway.route")
    source = "from . import a\nfrom ..b import c\ndef f():\n    import time\n    from os.path import join\n"
    assert imports(source, "p.q.r", is_package=False) == {
        "p.q", "p.q.a", "p.b", "p.b.c", "time", "os.path", "os.path.join",
    }  # fmt: skip
    assert "kube_audit_proxy.clock" in reached("kube_audit_proxy.app")


def test_the_gateway_loads_nothing_that_ships() -> None:
    """A worker carries calls: what talks to collectors and to Prometheus stays out of its process."""
    loaded = "import sys, kube_audit_proxy.process.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    heavy = {"grpc", "opentelemetry", "requests", "httpx", "prometheus_client", "sqlite3"}
    assert not heavy & set(done.stdout.split())
