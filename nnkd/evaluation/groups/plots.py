"""Plots of groups as PNG: boxes with their significance, and gaps before and after. No mark is one person's value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nnkd.evaluation.groups.measures import NOT_SIGNIFICANT
from nnkd.figures import COLOURS, FAINT, labelled, new_figure, png, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nnkd.evaluation.groups.fairness import Box, GroupChanges

FAIR, UNFAIR = "#1D4ED8", "#C62828"  # paper 1's Figure 2: blue is fair, red is not


def group_plot(
    folders: Mapping[str, tuple[Mapping[str, Box], str]], groups: Sequence[str], title: str, quantity: str
) -> bytes:
    """One label and attribute: a box by folder and group, and the stars of its test above every folder.

    Args:
        folders: By name: boxes by group (10, 25, 50, 75, 90 percentiles) and stars; none where nothing was tested.
        groups: All, in their order and colour.
        title: The label.
        quantity: The metric and its unit, on the y axis.
    """
    width = 0.8 / max(1, len(groups))
    figure, axes = new_figure(max(3.2, 0.34 * len(folders) * len(groups) + 1.0), 2.7)
    for position, (boxes, mark) in enumerate(folders.values()):
        for index, group in enumerate(groups):
            if group in boxes:
                place = position + (index - (len(groups) - 1) / 2) * width
                _draw_box(axes, place, width * 0.82, boxes[group], COLOURS[index % len(COLOURS)])
        if mark:
            top = max(found[4] for found in boxes.values())
            colour = FAIR if mark == NOT_SIGNIFICANT else UNFAIR
            axes.annotate(
                mark, (position, top), xytext=(0, 4), textcoords="offset points", ha="center", color=colour,
                fontsize=8, fontweight="bold",
            )  # fmt: skip
    crowded = len(folders) > 1 and sum(len(name) for name in folders) > 12 * len(groups)
    axes.set_xticks(range(len(folders)), [short(n) for n in folders], rotation=30 if crowded else 0, fontsize=7.5)
    axes.set_xlim(-0.55, len(folders) - 0.45)
    axes.margins(y=0.14)
    labelled(axes, title, up=quantity)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    handles = [axes.plot([], [], color=COLOURS[i % len(COLOURS)], linewidth=4)[0] for i in range(len(groups))]
    figure.legend(handles, groups, loc="outside lower center", ncols=min(4, len(groups)), fontsize=7, frameon=False)
    return png(figure)


def change_plot(changes: Mapping[str, GroupChanges], title: str, before: str, after: str, quantity: str) -> bytes:
    """Gaps of one attribute before and after, one line a label. Blue: smaller, red: larger, grey: the interval of the
    difference holds 0.

    Args:
        changes: By label.
        title: The attribute.
        before, after: Folders.
        quantity: The metric and its unit, on the x axis.
    """
    figure, axes = new_figure(4.2, 1.1 + 0.3 * len(changes))
    for row, found in enumerate(changes.values()):
        low, high = found.gap.low, found.gap.high
        clear = low is not None and high is not None and not low <= 0 <= high
        colour = "#6B7280" if not clear else FAIR if found.gap.value < 0 else UNFAIR
        axes.annotate(
            "", (found.gap_after, row), (found.gap_before, row),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 3, "shrinkB": 2},
        )  # fmt: skip
        axes.plot(found.gap_before, row, "o", markersize=6, markerfacecolor="white", markeredgecolor=colour)
        axes.plot(found.gap_after, row, "o", markersize=6, color=colour)
    axes.set_yticks(range(len(changes)), [short(name) for name in changes], fontsize=8)
    axes.set_ylim(len(changes) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    labelled(axes, title, across=f"largest gap in {quantity}\n○ {short(before)}   ● {short(after)}")
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    return png(figure)


def accuracy_plot(rows: Mapping[str, tuple[float, float, str, bool]], before: str, after: str, quantity: str) -> bytes:
    """Means over everybody before and after as bars, one pair a label, with the stars of the paired test.

    Args:
        rows: By label: before, after, stars, and whether accuracy dropped (red).
        before, after: Folders.
        quantity: The metric and its unit, on the y axis.
    """
    figure, axes = new_figure(max(3.2, 0.55 * len(rows) + 1.2), 2.6)
    for index, (old, new, mark, dropped) in enumerate(rows.values()):
        axes.bar(index - 0.19, old, 0.36, color=COLOURS[4], label=short(before) if not index else None)
        axes.bar(index + 0.19, new, 0.36, color=COLOURS[5], label=short(after) if not index else None)
        colour = UNFAIR if dropped else FAIR
        axes.annotate(
            mark, (index, max(old, new)), xytext=(0, 3), textcoords="offset points", ha="center", color=colour,
            fontsize=8, fontweight="bold",
        )  # fmt: skip
    crowded = sum(len(name) for name in rows) > 30
    axes.set_xticks(
        range(len(rows)), [short(name) for name in rows], rotation=35 if crowded else 0,
        ha="right" if crowded else "center", fontsize=7.5,
    )  # fmt: skip
    axes.margins(y=0.12)
    labelled(axes, up=quantity)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7.5, frameon=False)
    return png(figure)


def _draw_box(axes: Axes, place: float, width: float, found: Box, colour: str) -> None:
    line = {"color": colour, "linewidth": 1}
    keys = ("whislo", "q1", "med", "q3", "whishi")
    axes.bxp(
        [dict(zip(keys, found, strict=True))], positions=[place], widths=width, showfliers=False, patch_artist=True,
        boxprops={"facecolor": f"{colour}33", "edgecolor": colour, "linewidth": 1},
        whiskerprops=line, capprops=line, medianprops={"color": colour, "linewidth": 2}, manage_ticks=False,
    )  # fmt: skip
