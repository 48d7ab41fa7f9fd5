"""A share of traces may be left out; of lines never."""

from pathlib import Path
from threading import Event

import pytest

from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.telemetry import state as shipped
from kube_audit_proxy.telemetry.shipper import Settings, Shipper
from support.journals import JournalWriter
from support.shipping import TakesAll, calls


@pytest.mark.parametrize(
    ("signal", "sample", "least", "most"),
    [
        (Signal.TRACES, 1.0, 200, 200),
        (Signal.TRACES, 0.0, 0, 0),
        (Signal.TRACES, 0.5, 60, 140),
        (Signal.LOGS, 0.0, 200, 200),
    ],
)
def test_share_of_traces(tmp_path: Path, signal: Signal, sample: float, least: int, most: int) -> None:
    """All spans are sent unless less is asked for, and whatever is asked for, every call has its line."""
    JournalWriter(tmp_path / "journal").write(*calls("dev", 200))
    with shipped.opened_for_writing(tmp_path / shipped.FILE_NAME) as state:
        shipper = Shipper(
            signal,
            journal=tmp_path / "journal",
            state=state,
            transport=TakesAll(),
            settings=Settings(("dev",), sample=sample),
            stop=Event(),
        )
        shipper.step()
    assert least <= shipper.tried.delivered <= most
