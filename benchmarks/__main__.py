"""`make bench`: every benchmark in turn, then all figures against their goals, as a table and a plot.

`python -m benchmarks NAME...` runs some of them; each can also be run by itself.
"""

import importlib
import sys

import matplotlib as mpl

from benchmarks.goals import Figure, load, show
from benchmarks.rig import RESULTS

NAMES = ("calls", "watches", "streams", "index", "shipping", "soak")


def main() -> None:
    """Run the benchmarks that are named, or all."""
    for name in sys.argv[1:] or NAMES:
        importlib.import_module(f"benchmarks.{name}").main()
    figures = load()
    show(figures)
    plot(figures)


def plot(figures: list[Figure]) -> None:
    """Draw how far each figure is from its goal, as benchmarks/results/figures.svg."""
    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend was chosen

    mpl.rcParams["svg.hashsalt"] = "figures"  # the same figures give the same file
    drawing, axes = plt.subplots(figsize=(9, 0.6 + 0.38 * len(figures)), layout="constrained")
    names = [figure.name for figure in figures]
    colours = ["#2e7d32" if figure.met else "#c62828" for figure in figures]
    axes.barh(names, [figure.share for figure in figures], color=colours, height=0.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("share of the goal: up to 1 it is met, and less is better")
    for place, figure in enumerate(figures):
        sign = "≤" if figure.at_most else "≥"
        axes.text(
            figure.share + 0.02, place, f"{figure.value:,.2f} ({sign} {figure.goal:,g})", va="center", fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # where the line of the goal passes
        )  # fmt: skip
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(RESULTS / "figures.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
