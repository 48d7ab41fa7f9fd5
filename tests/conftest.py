"""What several folders of tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kube_audit_proxy.demo.cluster import DemoCluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoCluster]:
    """Give a started demo cluster; all tests of a run share it."""
    with DemoCluster(tmp_path_factory.mktemp("demo"), progress=print) as cluster:
        yield cluster
