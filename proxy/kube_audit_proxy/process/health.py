"""How a worker is: told every few seconds to whoever asks (`status`), and now and then in the journal itself."""

import contextlib
import time

from kube_audit_proxy import PRODUCT, __version__
from kube_audit_proxy.audit.heartbeat import Heartbeat
from kube_audit_proxy.clock import WallClock
from kube_audit_proxy.config import Config
from kube_audit_proxy.gateway.exchange import Gateway
from kube_audit_proxy.journal.reader import segments
from kube_audit_proxy.journal.writer import JournalWriter
from kube_audit_proxy.process import status
from kube_audit_proxy.telemetry.shipped import Shipped, shipped


class WorkerHealth:
    """Tells how the worker `name` is. `measure` may take its time, and is for a thread; the rest is for the loop."""

    def __init__(self, name: str, config: Config, gateway: Gateway, journal: JournalWriter) -> None:
        self._name = name
        self._config = config
        self._directory = status.directory(config.data_dir)
        self._gateway = gateway
        self._journal = journal
        self._wall = WallClock()
        self._segments = self._bytes = 0

    def measure(self) -> None:
        """Look how large the journal is; where that cannot be seen, out of descriptors for one, it is what it was."""
        sizes = []
        with contextlib.suppress(OSError):
            for path in segments(self._config.journal, self._name):
                with contextlib.suppress(FileNotFoundError):  # retention was faster
                    sizes.append(path.stat().st_size)
            self._segments, self._bytes = len(sizes), sum(sizes)

    def write(self) -> None:
        """Write a snapshot."""
        gateway = self._gateway
        values = {
            "connections_open": len(gateway.clients),
            "calls_in_flight": gateway.in_flight,
            "journal_segments": self._segments,
            "journal_bytes": self._bytes,
        }
        snapshot = gateway.tally.snapshot(
            self._name, __version__, time.time(), problem=self._journal.failed or "", gauges=status.gauges(values)
        )
        status.write(self._directory, snapshot)

    def beat(self, *, ending: bool = False) -> None:
        """Write a heartbeat to the journal; the last one says that nobody need wait for another."""
        known = shipped(self._directory, self._name, time.time()) or Shipped()
        heartbeat = Heartbeat(
            product=PRODUCT,
            calls=self._gateway.in_flight,
            refused=self._gateway.tally.refused(),
            journal_bytes=self._bytes,
            shipped_seq=known.seq,
            lag_seconds=known.lag_seconds,
            dead_letters=known.dead_letters,
            ending=ending,
        )
        self._journal.append(heartbeat.body(self._wall()))

    def gone(self) -> None:
        """Take back what was said: the worker has ended in good order."""
        status.remove(self._directory, self._name)
