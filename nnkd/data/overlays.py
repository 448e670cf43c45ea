"""Pictures of label maps over their image, side by side, for reviews and reports. Draws with matplotlib's objects on
the Agg canvas: no window, no global state, so that several processes and threads may draw at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.errors import GeometryError
from nnkd.figures import png_of
from nnkd.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe and Ito's colours, which colour-blind readers tell apart, then darker ones; white and black are left out.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#9E6BFF", "#7FD13B", "#FF8FA3")
SOFT_TISSUE, LUNG = (-160.0, 240.0), (-1350.0, 150.0)  # level 40, width 400; level -600, width 1500 (HU)
PANEL_INCHES = 2.6
FILL = 0.28


def draw_overlays(
    image: NDArray[np.integer | np.floating],
    label_maps: Mapping[str, NDArray[np.integer]],
    file: Path,
    *,
    label_names: Mapping[int, str],
    spacing: Sequence[float],
    slice_index: int | None = None,
) -> None:
    """Write one row of panels as PNG: the image, then each label map over it.

    Arrays in LPS order appear as radiologists look at them: anterior on top, the person's right on the left.

    Args:
        image: (Z, Y, X), or (C, Z, Y, X): three channels are shown as red, green and blue, else the first one.
        label_maps: (Z, Y, X) integers by title, in the order of the panels.
        file: Target, written atomically.
        label_names: Names by integer; other integers are not drawn.
        spacing: (z, y, x) in mm.
        slice_index: Which axial slice; None: `telling_slice`.

    Raises:
        GeometryError: If a label map has not the image's size.
    """
    content = overlays_png(image, label_maps, label_names=label_names, spacing=spacing, slice_index=slice_index)
    with atomic(file) as temporary:
        temporary.write_bytes(content)


def overlays_png(
    image: NDArray[np.integer | np.floating],
    label_maps: Mapping[str, NDArray[np.integer]],
    *,
    label_names: Mapping[int, str],
    spacing: Sequence[float],
    slice_index: int | None = None,
    dpi: int = 110,
) -> bytes:
    """What `draw_overlays` writes, as the bytes of a PNG.

    Raises:
        GeometryError: If a label map has not the image's size.
    """
    image = np.asarray(image)
    volume = image if image.ndim == 4 else image[None]
    for title, label_map in label_maps.items():
        if label_map.shape != volume.shape[1:]:
            raise GeometryError(
                f"The label map '{title}' has {label_map.shape} voxels, but its image has {volume.shape[1:]}. "
                f"Draw only label maps that lie on the image's grid."
            )
    names = dict(sorted(label_names.items()))
    z = telling_slice(list(label_maps.values()), list(names), volume.shape[1]) if slice_index is None else slice_index
    figure = _figure(volume, label_maps, names, spacing, z)
    return png_of(figure, dpi)


def telling_slice(label_maps: Sequence[NDArray[np.integer]], labels: Sequence[int], depth: int) -> int:
    """The axial slice in which the label maps differ most; if they never do, the one with most foreground.

    Args:
        label_maps: (Z, Y, X) integers.
        labels: Integers that count; all others are background.
        depth: Z, for the middle slice where there is no foreground at all.
    """
    shown = [np.where(np.isin(label_map, labels), label_map, 0) for label_map in label_maps]
    if shown:
        differing = np.zeros(shown[0].shape, dtype=bool)
        for other in shown[1:]:
            differing |= other != shown[0]
        for counted in (differing, shown[0] != 0):
            per_slice = counted.sum(axis=(1, 2))
            if per_slice.any():
                return int(per_slice.argmax())
    return depth // 2


def label_colours(labels: Sequence[int]) -> dict[int, str]:
    """A colour for each label, the same in every picture of a dataset."""
    return {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(sorted(labels))}


def _figure(
    volume: np.ndarray, label_maps: Mapping[str, np.ndarray], names: Mapping[int, str], spacing: Sequence[float], z: int
) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    height, width = volume.shape[2] * spacing[1], volume.shape[3] * spacing[2]
    tall, wide = (PANEL_INCHES * side / max(height, width) for side in (height, width))
    columns = 1 + len(label_maps)
    wide = max(wide, 1.2)
    colours = label_colours(list(names))
    present = [n for n in names if any((label_map[z] == n).any() for label_map in label_maps.values())]
    entries = {n: _short(names[n], 1.8) for n in present}
    longest = max((len(text) for text in entries.values()), default=0)
    fit = max(1, int(columns * wide / (0.4 + 0.065 * longest)))  # legend entries that fit into one line
    lines = -(-len(present) // fit)
    size = (columns * wide + 0.08 * (columns + 1), tall + 0.3 + 0.22 * lines + 0.08)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    background, limits = _to_display(volume, z, label_maps)
    titles = ["image" if volume.shape[1] == 1 else f"image, slice {z + 1}/{volume.shape[1]}", *label_maps]
    for column, title in enumerate(titles):
        left = (0.08 + column * (wide + 0.08)) / size[0]
        axes = figure.add_axes((left, (0.05 + 0.22 * lines) / size[1], wide / size[0], tall / size[1]))
        axes.imshow(background, cmap="gray", aspect=spacing[1] / spacing[2], interpolation="nearest", **limits)
        axes.set_title(_short(title, wide), fontsize=8, pad=3)
        axes.set_axis_off()
        if column:
            _draw_labels(axes, label_maps[title][z], colours)
    if present:
        patches = [Patch(facecolor=colours[n], label=entries[n]) for n in present]
        figure.legend(
            handles=patches, loc="lower center", ncols=min(fit, len(present)), fontsize=7, frameon=False,
            borderpad=0.1, handlelength=1.0, columnspacing=1.0, handletextpad=0.4,
        )  # fmt: skip
    return figure


def _draw_labels(axes: Axes, label_map: np.ndarray, colours: Mapping[int, str]) -> None:
    """Translucent fill and a contour for each label of one slice (Y, X)."""
    from matplotlib.colors import to_rgba

    fill = np.zeros((*label_map.shape, 4))
    ys, xs = np.arange(-1, label_map.shape[0] + 1), np.arange(-1, label_map.shape[1] + 1)
    for label, colour in colours.items():
        mask = label_map == label
        if not mask.any():
            continue
        fill[mask] = to_rgba(colour, FILL)
        # One pixel of padding closes contours at the border and lets a slice of one row be drawn at all.
        axes.contour(xs, ys, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour], linewidths=1.1)
    axes.imshow(fill, aspect=axes.get_aspect(), interpolation="nearest")
    axes.set_xlim(-0.5, label_map.shape[1] - 0.5)
    axes.set_ylim(label_map.shape[0] - 0.5, -0.5)


def _to_display(volume: np.ndarray, z: int, label_maps: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
    """One slice as imshow takes it: (Y, X, 3) in [0, 1], or (Y, X) and its grey limits."""
    finite = np.nan_to_num(np.asarray(volume[:, z], dtype=np.float32))
    if volume.shape[0] == 3:
        low, high = float(finite.min()), float(finite.max())
        return (np.moveaxis(finite, 0, -1) - low) / max(high - low, 1e-6), {}
    grey = finite[0]
    low, high = np.percentile(grey, (0.5, 99.5))
    if volume.min() <= -900 and volume.max() >= 200:  # Hounsfield units: the slice's own range hides soft tissue
        inside = grey[np.any([m[z] != 0 for m in label_maps.values()], axis=0)] if label_maps else grey[:0]
        low, high = LUNG if inside.size and np.median(inside) < -400 else SOFT_TISSUE
    return grey, {"vmin": float(low), "vmax": float(max(high, low + 1e-6))}


def _short(text: str, inches: float) -> str:
    fits = max(8, int(inches * 13))  # characters of 8 points
    return text if len(text) <= fits else f"{text[: fits - 1]}…"
