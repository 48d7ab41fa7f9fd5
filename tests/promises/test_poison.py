"""Records that are JSON and nonsense: whatever stands in them, shipping goes on."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.telemetry import state as shipped
from kube_audit_proxy.telemetry.shipper import Settings, Shipper
from support.journals import JournalWriter
from support.shipping import TakesAll, calls, ends

COMMAND = "0b5c6f0e-6a53-8c1e-9f6a-2f0d9d6c7b8a"
(END,) = ends(calls("dev", 1, begin=datetime.now(UTC) - timedelta(hours=1), command_id=COMMAND, exit_code=0))
TIMES = st.sampled_from(["9999-12-31T23:59:59.000000Z", "1969-12-31T23:59:59.000000Z", "2026-02-30T00:00:00.000000Z"])
SCALARS = TIMES | st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)


@pytest.mark.parametrize("signal", list(Signal))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(sorted(END)), ANYTHING, min_size=1, max_size=4))
def test_nonsense_stops_nothing(signal: Signal, changes: dict[str, Any]) -> None:
    """A record of which any fields are anything is shipped or becomes a dead letter; those around it are shipped."""
    around = calls("dev", 2, begin=datetime.now(UTC) - timedelta(hours=1))
    with tempfile.TemporaryDirectory() as folder:
        writer = JournalWriter(Path(folder) / "journal")
        writer.write(*around[:2])
        try:
            writer.write({**END, **changes})
        except (TypeError, ValueError):
            return  # nothing that could stand in a line
        writer.write(*around[2:])
        with shipped.opened_for_writing(Path(folder) / shipped.FILE_NAME) as state:
            shipper = Shipper(
                signal,
                journal=Path(folder) / "journal",
                state=state,
                transport=TakesAll(),
                settings=Settings(("dev",)),
                stop=Event(),
            )
            assert shipper.step() is False
            assert shipper.tried.delivered >= 2
            assert state.positions(signal)["gateway-1"].cursor.offset == writer.path.stat().st_size
