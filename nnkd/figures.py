"""Figures of one style: how they are begun, drawn as PNG and put into a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#4C78A8", "#E08A3C", "#4F9D69", "#B65D8F", "#8C7A5B", "#3FA7B5", "#C24E4E", "#7A6FB3")
INK, FAINT = "#374151", "#E5E7EB"
DPI = 150


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure in our style; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9CA3AF")
    axes.tick_params(labelsize=7.5, colors=INK, length=2)
    axes.set_axisbelow(True)
    return figure, axes


def png(figure: Figure) -> bytes:
    """The file's content."""
    return png_of(figure, DPI)


def png_of(figure: Figure, dpi: int) -> bytes:
    """The same in another resolution. A name such as $x^$ is shown as it is and not taken for a formula."""
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # they are made when somebody asks
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def embedded(picture: bytes) -> str:
    """A PNG as an image's source, so that a page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


def labelled(axes: Axes, title: str = "", across: str = "", up: str = "") -> None:
    """A title, and what the axes show; empty: none."""
    axes.set_title(title, fontsize=9.5, color=INK, loc="left", fontweight="bold")
    axes.set_xlabel(across, fontsize=8, color=INK)
    axes.set_ylabel(up, fontsize=8, color=INK)


def short(name: str) -> str:
    """A name that fits under an axis."""
    return name if len(name) <= 22 else f"{name[:21]}…"
