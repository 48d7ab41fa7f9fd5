"""Fixtures: Loki and Tempo with a trail in them, and Grafana's own code. Test modules name it in `pytest_plugins`."""

from collections.abc import Iterator
from datetime import UTC, datetime

import generated
import pytest
from backends import Backends
from generated import Trail
from grafana import Grafana, grafana_in_node

from kube_audit_proxy.demo.stack import TelemetryStack
from servers.stack import CONFIGURATION
from support.proxies import wait_until


@pytest.fixture(scope="session")
def grafana() -> Iterator[Grafana]:
    """Give what Grafana runs in a browser."""
    with grafana_in_node() as running:
        yield running


@pytest.fixture(scope="session")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TelemetryStack]:
    """Give Loki, Tempo and a collector that nobody else writes to: the tests count all that is there."""
    with TelemetryStack(tmp_path_factory.mktemp("dashboards"), CONFIGURATION, progress=print) as stack:
        yield stack


@pytest.fixture(scope="session")
def backends(own_stack: TelemetryStack) -> Backends:
    """Give Loki and Tempo."""
    return Backends(own_stack.loki_url, own_stack.tempo_url)


@pytest.fixture(scope="session")
def trail(own_stack: TelemetryStack, backends: Backends) -> Trail:
    """Give a trail that Loki and Tempo have."""
    made, records = generated.generate(datetime.now(UTC))
    generated.send(own_stack.loki_url, own_stack.otlp_http, records)
    last = made.commands[-1]["trace_id"]
    wait_until(lambda: backends.trace(last), "the last span to arrive")
    query = "{kind=server} | count_over_time()"

    def counted() -> bool:
        samples = [sample for series in backends.traced(query, made.span) for sample in series["samples"]]
        return sum(float(sample.get("value", 0)) for sample in samples) >= len(made.calls)

    wait_until(counted, "Tempo to count all calls")
    return made
