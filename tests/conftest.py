"""What several folders of tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo.cluster import DemoCluster
from servers.stack import stack
from support.proxies import Proxy, proxy

__all__ = ["stack"]

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
