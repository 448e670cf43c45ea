"""Plots of a few-shot training as PNG: which auxiliary dataset was chosen when, and by what bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from nnkd.auxiliary.turns import PlayedTurns
from nnkd.figures import COLOURS, FAINT, INK, labelled, new_figure, png, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

MOST_COLUMNS = 200  # of turns beside each other; beyond, a column is the share of several turns
MOST_POINTS = 1000  # of a line
COLOURED = len(COLOURS)
OTHERS = "#9CA3AF"


def choice_plot(turns: PlayedTurns) -> bytes:
    """Which dataset was chosen when: a row each, the most often chosen on top, darker where it had more of the turns.

    Source: Yang et al., ASAP, Figure 3.
    """
    from matplotlib.ticker import MaxNLocator

    shares = chosen_shares(turns)
    figure, axes = new_figure(6.4, 0.9 + 0.22 * len(turns.datasets))
    first, last = turns.rows[0]["turn"], turns.rows[-1]["turn"]
    axes.imshow(
        shares, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1,
        extent=(first - 0.5, last + 0.5, len(shares) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(turns.datasets)), [short(name) for name in turns.datasets], fontsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    labelled(axes, "Trained along", "turn")
    return png(figure)


def chosen_shares(turns: PlayedTurns) -> NDArray[np.float64]:
    """(datasets, columns) share of the turns of a column in which each dataset was chosen, in [0, 1]; columns are
    turns, or equal parts of the training where there are many."""
    rows = {name: row for row, name in enumerate(turns.datasets)}
    places = np.array([rows[name] for name in turns.chosen])
    columns = min(len(places), MOST_COLUMNS)
    column = np.arange(len(places)) * columns // len(places)
    shares = np.zeros((len(rows), columns))
    np.add.at(shares, (places, column), 1)
    return shares / np.bincount(column, minlength=columns)


def cumulative_plot(turns: PlayedTurns) -> bytes:
    """How often each dataset had been chosen by a turn; dotted: if all were chosen equally often."""
    figure, axes = new_figure(6.4, 2.8)
    numbers = np.array([row["turn"] for row in turns.rows])
    kept = _thinned(len(numbers))
    for index, name in reversed(list(enumerate(turns.datasets))):
        counts = np.array([row["counts"][name] for row in turns.rows])
        axes.plot(numbers[kept], counts[kept], **_line(index, name))
    axes.plot(numbers[[0, -1]], numbers[[0, -1]] / len(turns.datasets), color=INK, linewidth=0.8, linestyle=":")
    labelled(axes, "Turns so far", "turn", "turns")
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    _legend(axes, turns.datasets)
    return png(figure)


def bounds_plot(turns: PlayedTurns) -> bytes | None:
    """Estimates (lines) and upper confidence bounds (edges of the bands above them) of the datasets that were chosen
    most often; None where the scheduler has no bounds."""
    rows = [row for row in turns.rows if row.get("bounds") and row.get("estimates")]
    if not rows:
        return None
    figure, axes = new_figure(6.4, 2.8)
    numbers = np.array([row["turn"] for row in rows])
    kept = _thinned(len(numbers))
    for index, name in reversed(list(enumerate(turns.datasets[:COLOURED]))):
        low, high = (np.array([row[key][name] for row in rows])[kept] for key in ("estimates", "bounds"))
        axes.fill_between(numbers[kept], low, high, color=COLOURS[index], alpha=0.1, linewidth=0)
        axes.plot(numbers[kept], high, color=COLOURS[index], linewidth=0.5, alpha=0.6)
        axes.plot(numbers[kept], low, **_line(index, name))
    labelled(axes, "Estimate and bound", "turn", "reward")
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    _legend(axes, turns.datasets)
    return png(figure)


def _thinned(number: int) -> NDArray[np.int64]:
    """Indices of at most so many points as a line can show, the last among them."""
    return np.unique(np.linspace(0, number - 1, min(number, MOST_POINTS)).round().astype(int))


class _Line(TypedDict, total=False):
    color: str
    linewidth: float
    alpha: float
    label: str
    zorder: float


def _line(index: int, name: str) -> _Line:
    if index >= COLOURED:
        return {"color": OTHERS, "linewidth": 0.6, "alpha": 0.6}
    return {"color": COLOURS[index], "linewidth": 1.3, "label": short(name), "zorder": 3}


def _legend(axes: Axes, datasets: Sequence[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    title = f"{len(datasets) - COLOURED} more in grey or not at all" if len(datasets) > COLOURED else None
    axes.figure.legend(
        handles[::-1], labels[::-1], loc="outside right upper", fontsize=7, frameon=False, title=title, title_fontsize=7
    )
