"""Whether the proxy lives and can take calls: what its processes say of themselves, as Kubernetes tells it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kube_audit_proxy.process.status import ALIVE_FOR, Snapshot


@dataclass(frozen=True, slots=True)
class Health:
    """The answer: whether all is well, and what to say, a line for each process."""

    good: bool
    lines: tuple[str, ...]

    def text(self, name: str, *, verbose: bool) -> str:
        """Return the body of the answer: `ok`, or where something is wrong or all is wanted, each process."""
        if self.good and not verbose:
            return "ok\n"
        return "\n".join((*self.lines, f"{name} check {'passed' if self.good else 'failed'}", ""))


def alive(expected: Sequence[str], snapshots: Mapping[str, Snapshot], now: float) -> Health:
    """Tell whether every process lives."""
    return _health(expected, lambda name: _dead(snapshots.get(name), now))


def ready(workers: Sequence[str], snapshots: Mapping[str, Snapshot], now: float) -> Health:
    """Tell whether every worker lives and can record calls; where it cannot, it makes none."""
    return _health(workers, lambda name: _dead(snapshots.get(name), now) or _unready(snapshots[name]))


def _health(names: Sequence[str], problem: Callable[[str], str]) -> Health:
    problems = {name: problem(name) for name in names}
    lines = tuple(f"[-]{name} failed: {what}" if what else f"[+]{name} ok" for name, what in problems.items())
    return Health(not any(problems.values()), lines)


def _dead(snapshot: Snapshot | None, now: float) -> str:
    if snapshot is None:
        return "it has given no sign of life yet"
    return "" if snapshot.alive(now) else f"it has given no sign of life for more than {ALIVE_FOR:g} s"


def _unready(snapshot: Snapshot) -> str:
    return "" if snapshot.ready else snapshot.problem or "it is not ready"
