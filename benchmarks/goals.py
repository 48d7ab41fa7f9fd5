"""The figures that are to be reached, and how they are kept: a file a benchmark, and one table and plot of all."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rig import RESULTS


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure and its goal: `at_most`, or at least where that is False."""

    name: str
    value: float
    goal: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def share(self) -> float:
        """How far the figure is from its goal: 1 is just reached, below 1 is better."""
        return self.value / self.goal if self.at_most else self.goal / self.value


def save(benchmark: str, measured: Any, figures: list[Figure]) -> None:
    """Print the figures of a benchmark against their goals, and write them beside what was measured."""
    RESULTS.mkdir(exist_ok=True)
    content = {"figures": [asdict(figure) for figure in figures], "of": _circumstances(), "measured": measured}
    (RESULTS / f"{benchmark}.json").write_text(json.dumps(content, indent=2) + "\n")
    show(figures)


def _circumstances() -> dict[str, Any]:
    """Return what else the figures depend on: of two builds of Python, one takes a tenth less CPU than the other."""
    whose = "the system's" if sys.base_prefix == "/usr" else "another than the system's"
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "python": f"{platform.python_version()}, {whose}",
        "cores": os.cpu_count(),
    }


def load() -> list[Figure]:
    """Read the figures of all benchmarks that were run."""
    files = [json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("*.json"))]
    return [Figure(**figure) for content in files for figure in content.get("figures", ())]


def show(figures: list[Figure]) -> None:
    """Print figures against their goals."""
    table = Table("figure", "measured", "goal", "", title="Against the goals")
    for figure in figures:
        sign = "<=" if figure.at_most else ">="
        table.add_row(
            figure.name, f"{figure.value:,.2f}", f"{sign} {figure.goal:,g}", "met" if figure.met else "missed"
        )
    Console().print(table)
