"""What the shipper has said of itself last, for workers and commands to read: it imports nothing that ships."""

from dataclasses import dataclass
from pathlib import Path

from kube_audit_proxy.export.names import Signal
from kube_audit_proxy.process.status import read

PROCESS = "shipper"


@dataclass(frozen=True, slots=True)
class Shipped:
    """How far the lines of a writer are shipped, as the shipper said last; None: it says nothing."""

    seq: int | None = None
    lag_seconds: float | None = None
    dead_letters: int | None = None


def shipped(directory: Path, writer: str, now: float) -> Shipped | None:
    """Return what the shipper said of a writer last; None where there is no shipper, or it does not live."""
    said = read(directory).get(PROCESS)
    if said is None or not said.alive(now):
        return None
    labels = (("signal", Signal.LOGS.value), ("writer", writer))
    values = {each.name: each.value for each in said.gauges if each.labels == labels}
    dead = sum(each.value for each in said.counters if each.name == "dead_letters")
    seq = values.get("shipped_seq")
    return Shipped(int(seq) if seq is not None else None, values.get("ship_lag_seconds"), int(dead))
