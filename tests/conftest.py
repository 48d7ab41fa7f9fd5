"""What several folders of tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from kube_audit_proxy.demo.cluster import DemoCluster
from servers.node import Node
from servers.node.machine import why_not
from servers.stack import stack
from support import secrets
from support.proxies import Proxy, proxy

__all__ = ["stack"]

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))  # the same examples each time, however slow

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoCluster]:
    """Give a started demo cluster; all tests of a run share it."""
    with DemoCluster(tmp_path_factory.mktemp("demo"), progress=print) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def fronted(demo: DemoCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Give a proxy in front of the demo cluster, run as its owner runs it; all tests of a run share it."""
    home = tmp_path_factory.mktemp("proxy")
    with proxy(["--kubeconfig", str(demo.kubeconfig)], home / "data", home / "proxy.log") as running:
        yield running


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Give a started cluster of one real node; all tests of a run share it. Tests are left out where none can run."""
    if reason := why_not():
        pytest.skip(reason)
    with Node(tmp_path_factory.mktemp("node")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def node_fronted(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Give a proxy in front of the real node, run as its owner runs it; all tests of a run share it."""
    home = tmp_path_factory.mktemp("node-proxy")
    with proxy(["--kubeconfig", str(node.kubeconfig)], home / "data", home / "proxy.log") as running:
        yield running


@pytest.fixture(scope="session", autouse=True)
def _no_secret_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run if a credential of it stands in any file or output that is not meant to hold it."""
    yield
    leaks = secrets.leaks(tmp_path_factory.getbasetemp())
    assert not leaks, "credentials were left behind: see tests/support/secrets.py"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what tests print for the search at the end."""
    secrets.keep_output(report.nodeid, report.sections if report.when == "teardown" else ())
