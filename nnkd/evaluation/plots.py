"""Small plots of scores as PNG: one label's values by folder, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nnkd.evaluation.scores import Difference, verdict
from nnkd.figures import COLOURS, FAINT, INK, labelled, new_figure, png, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERDICT_COLOURS = {"better": "#2E7D4F", "worse": "#B3382F", "unclear": "#6B7280"}


def box_plot(
    values: Mapping[str, Mapping[str, float]], worst: Mapping[str, set[str]], title: str, quantity: str
) -> bytes:
    """One label: a box and every case by folder. Cases that got the worst value by rule (exactly one mask empty) are
    crosses, so that nobody takes them for measured ones.

    Args:
        values: By folder and case.
        worst: Cases that are crosses, by folder.
        title: The label.
        quantity: The metric and its unit, on the y axis.
    """
    names = list(values)
    top = _top(values, worst)
    wide = max(3.0, 0.55 * len(names) + 1.0)
    figure, axes = new_figure(wide, 2.6)
    rng = np.random.default_rng(0)  # only scatters points sideways
    for index, name in enumerate(names):
        colour = COLOURS[index % len(COLOURS)]
        cases = sorted(values[name])
        if not cases:
            axes.annotate("none", (index, 0.5), xycoords=("data", "axes fraction"), ha="center", color=INK, fontsize=7)
            continue
        heights = np.array([values[name][case] for case in cases])
        _box(axes, index, heights, colour)
        by_rule = np.array([case in worst[name] for case in cases])
        drawn = heights if top is None else np.minimum(heights, top)
        sideways = index + rng.uniform(-0.17, 0.17, len(cases))
        axes.scatter(sideways[~by_rule], drawn[~by_rule], s=8, color=colour, alpha=0.55, linewidths=0, zorder=3)
        axes.scatter(
            sideways[by_rule], drawn[by_rule], s=18, color=colour, marker="x", linewidths=1, zorder=3, clip_on=False
        )
    if top is not None:
        axes.set_ylim(0, top)
    crowded = sum(len(name) for name in names) > 26 or len(names) > 5
    axes.set_xticks(range(len(names)), [short(n) for n in names], rotation=35 if crowded else 0, fontsize=7.5)
    if crowded:
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    axes.set_xlim(-0.6, len(names) - 0.4)
    labelled(axes, title, up=quantity)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    return png(figure)


def difference_plot(differences: Sequence[Difference], title: str, quantity: str) -> bytes:
    """Differences of two folders' means, one line each, with 95 % intervals.

    Args:
        differences: Of one metric.
        title: Above the plot.
        quantity: What the x axis shows.
    """
    figure, axes = new_figure(5.2, 0.9 + 0.3 * len(differences))
    for row, difference in enumerate(differences):
        estimate, colour = difference.estimate, VERDICT_COLOURS[verdict(difference)]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [row, row], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(estimate.value, row, "o", color=colour, markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(differences)), [f"{short(d.first)} − {short(d.second)}" for d in differences], fontsize=8)
    axes.set_ylim(len(differences) - 0.4, -0.6)
    labelled(axes, title, across=quantity)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    return png(figure)


def caught_plot(shares: NDArray[np.floating], curves: Mapping[str, NDArray[np.floating]]) -> bytes:
    """How many of the wrong voxels are found among the most uncertain ones.

    Args:
        shares: (n,) of voxels, in [0, 1].
        curves: (n,) share of the wrong voxels among them, by map.
    """
    figure, axes = new_figure(3.6, 2.8)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(shares, curve, color=COLOURS[index], linewidth=1.6, label=name.replace("_", " "))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    labelled(axes, across="share of voxels, most uncertain first", up="share of the wrong voxels found")
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    axes.grid(color=FAINT, linewidth=0.7)
    return png(figure)


def _top(values: Mapping[str, Mapping[str, float]], worst: Mapping[str, set[str]]) -> float | None:
    """Where to cut the y axis, so that image diagonals do not squeeze what was measured; None: nowhere."""
    measured = [v for name, cases in values.items() for case, v in cases.items() if case not in worst[name]]
    highest = max((v for cases in values.values() for v in cases.values()), default=0.0)
    limit = 1.15 * max(measured, default=highest)
    return limit if 0 < limit < highest / 2 else None


def _box(axes: Axes, position: float, heights: np.ndarray, colour: str) -> None:
    line = {"color": colour, "linewidth": 1}
    axes.boxplot(
        [heights], positions=[position], widths=0.5, showfliers=False, patch_artist=True,
        boxprops={"facecolor": f"{colour}22", "edgecolor": colour, "linewidth": 1},
        whiskerprops=line, capprops=line, medianprops={"color": colour, "linewidth": 2}, manage_ticks=False,
    )  # fmt: skip
