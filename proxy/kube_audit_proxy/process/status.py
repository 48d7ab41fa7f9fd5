"""What the processes of a proxy say of themselves: a small file each, written anew every few seconds.

Whoever wants to know how they are, such as the admin listener, reads the files. A process whose file is older than
`ALIVE_FOR` does not live, or does not get on; what it last said of itself counts no longer.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from errno import ENOSPC
from pathlib import Path
from typing import Any

import orjson

log = logging.getLogger(__name__)

WRITE_EVERY = 5.0
"""Seconds between two snapshots of a process."""

ALIVE_FOR = 15.0
"""Seconds after which a process that has written no further snapshot counts as dead."""


_EXPECTED = "expected"
"""The file in which the parent says which processes there are to be."""


class Kind(StrEnum):
    """What a process does."""

    WORKER = "worker"
    SHIPPER = "shipper"
    INDEXER = "indexer"


@dataclass(frozen=True, slots=True)
class Sample:
    """A number: of a counter since the process began, or of a gauge at present.

    `name` is that of the metric (`admin/metrics.py` has the table), without the prefix that all of them have.
    """

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values fell into which bucket: `counts[i]` those above `bounds[i - 1]`, up to `bounds[i]` and with it.

    There is one count more than bounds: of the values above all of them.
    """

    name: str
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a process says of itself. `at` is in Unix seconds; `problem` is a sentence, "" while all is well."""

    process: str
    kind: Kind
    version: str
    at: float
    ready: bool
    problem: str = ""
    counters: tuple[Sample, ...] = ()
    gauges: tuple[Sample, ...] = ()
    histograms: tuple[Histogram, ...] = ()

    def alive(self, now: float) -> bool:
        """Tell whether the process that wrote this still does so."""
        # Where the clock was set back, what was said before that seems to come from the future.
        return abs(now - self.at) <= ALIVE_FOR


@dataclass(frozen=True, slots=True)
class Expected:
    """The names of the processes that have to live at present: those that take calls, and the others."""

    workers: tuple[str, ...]
    others: tuple[str, ...]


def gauges(values: Mapping[str, float], **labels: str) -> tuple[Sample, ...]:
    """Return samples with these names and values, all with the same labels."""
    return tuple(Sample(name, value, tuple(labels.items())) for name, value in values.items())


def directory(data_dir: Path) -> Path:
    """Return where the processes of the proxy with this data directory write."""
    return data_dir / "run"


def write(directory: Path, snapshot: Snapshot) -> None:
    """Replace what this process has said before, in one step; on a full disk, in its place.

    Where that cannot be written, the process goes on with its work, and soon counts as dead.
    """
    _replace(directory / f"{snapshot.process}.json", orjson.dumps(snapshot))


def expect(directory: Path, processes: Expected) -> None:
    """Say which processes there are to be, as `write` does: workers are replaced by others with other names."""
    _replace(directory / _EXPECTED, orjson.dumps(processes))


def expected(directory: Path) -> Expected | None:
    """Return which processes there are to be; None where nobody has said so."""
    try:
        values = orjson.loads((directory / _EXPECTED).read_bytes())
        return Expected(tuple(map(str, values["workers"])), tuple(map(str, values["others"])))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.stem}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _put(beside, content, os.O_CREAT | os.O_TRUNC)
            beside.replace(path)
        except OSError as error:
            if error.errno != ENOSPC:
                raise
            # What was said before has room enough: that there is no more is what has to be said.
            beside.unlink(missing_ok=True)
            _put(path, content)
    except OSError as error:
        log.warning("cannot say how this process is: %s", error)


def _put(path: Path, content: bytes, flags: int = 0) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | flags, 0o600), "wb", buffering=0) as file:
        file.write(content)
        file.truncate()


def remove(directory: Path, process: str) -> None:
    """Take back what a process has said: it has ended in good order. Raises OSError."""
    (directory / f"{process}.json").unlink(missing_ok=True)


def read(directory: Path) -> dict[str, Snapshot]:
    """Return what each process has said last, by its name; what cannot be read is left out."""
    found = {}
    for path in sorted(directory.glob("*.json")):
        try:
            snapshot = _snapshot(orjson.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # removed meanwhile, or by another version of the program
        found[snapshot.process] = snapshot
    return found


def _snapshot(values: dict[str, Any]) -> Snapshot:
    return Snapshot(
        process=str(values["process"]),
        kind=Kind(values["kind"]),
        version=str(values["version"]),
        at=float(values["at"]),
        ready=bool(values["ready"]),
        problem=str(values["problem"]),
        counters=tuple(_sample(each) for each in values["counters"]),
        gauges=tuple(_sample(each) for each in values["gauges"]),
        histograms=tuple(_histogram(each) for each in values["histograms"]),
    )


def _sample(values: dict[str, Any]) -> Sample:
    return Sample(values["name"], float(values["value"]), _labels(values))


def _histogram(values: dict[str, Any]) -> Histogram:
    bounds, counts = tuple(map(float, values["bounds"])), tuple(map(int, values["counts"]))
    if len(counts) != len(bounds) + 1:
        raise ValueError(values["name"])
    return Histogram(values["name"], bounds, counts, float(values["sum"]), _labels(values))


def _labels(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), str(value)) for name, value in values["labels"])
