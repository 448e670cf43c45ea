"""Whether the frames of a series fill a box, in which order, and on which grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading.dicom.frames import Frame
from nnkd.data.reading.geometry import TOLERANCE, Grid
from nnkd.data.reading.image import nowhere
from nnkd.errors import DatasetError, GeometryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_SAME = 1e-3  # pixels: slices that lie nearer to each other are at one position
_GAP = 1.5  # usual steps: a slice is missing
_MOST_TILT = 60  # degrees; beyond, slices lie side by side rather than on each other
_CONTRASTS = ("EchoTime", "EffectiveEchoTime", "DiffusionBValue", "InversionTime", "TemporalPositionIdentifier",
              "TemporalPositionIndex")  # what one volume has one of  # fmt: skip
_NAMED = 6  # slices, or runs of them, that a message names


@dataclass(frozen=True)
class Stack:
    """The order of frames, and the grid they lie on.

    Attributes:
        order: Index of the frame of each slice, along the normal.
        grid: Of the box. Where slices were shifted against each other, it is larger than they are.
        offsets: (Z, 2), where the first pixel of each slice lies in the box, in voxels (y, x); None: at the first
            voxel of its plane.
        said: What was evened out, or has to be resampled.
    """

    order: tuple[int, ...]
    grid: Grid
    offsets: Array | None
    said: tuple[str, ...]


def arrange(frames: Sequence[Frame], where: str) -> Stack:
    """Put frames in order along the normal of their planes.

    A slice may lie a tenth of a voxel beside the grid, as positions are written with few digits. Slices that are
    shifted evenly (tilted gantry, drifting table) get a right-angled box that holds them all.

    Args:
        frames: Of one series, in any order.
        where: How the series is called in messages.

    Raises:
        DatasetError: If they are several volumes, or sizes differ.
        GeometryError: If they do not fill a box.
    """
    try:
        return _arranged(frames, where)
    except DatasetError as error:
        stacks: dict[str, list[Frame]] = {}
        for frame in frames:
            stacks.setdefault(frame.traits.get("StackID", ""), []).append(frame)
        if len(stacks) == 1:
            raise
        parts = "; ".join(f"{name}: {named(group)}" for name, group in list(stacks.items())[:_NAMED])
        raise GeometryError(
            f"{where} holds {len(stacks)} stacks of slices (StackID {parts}), which fill no single box. "
            f"{_apart(frames)}"
        ) from error


def _arranged(frames: Sequence[Frame], where: str) -> Stack:
    _check_alike(frames, where)
    shape = (len(frames), *frames[0].shape)
    if not all(f.in_world for f in frames):
        return _radiograph(frames, where)
    rows, columns, normal = _axes(frames, where)
    if len(frames) == 1:
        return _single(frames[0], rows, columns, normal, where)
    heights = np.array([f.position for f in frames]) @ normal
    order = tuple(int(k) for k in np.argsort(heights, kind="stable"))
    ordered = [frames[k] for k in order]
    _check_positions(ordered, heights[list(order)], rows, columns, where)
    _check_contrast(ordered, where)
    _check_gaps(ordered, heights[list(order)], where)
    affine = _affine(ordered, rows, columns)
    grid, _ = Grid.from_affine(shape, affine)
    off = _displacements(ordered, grid.affine)
    if off.max() < TOLERANCE:
        return Stack(order, grid, None, _evened(off))
    if _displacements(ordered, affine).max() >= TOLERANCE:
        raise GeometryError(_uneven(ordered, affine, rows, columns, normal, where))
    box, offsets, said = _sheared(ordered, affine, rows, columns, normal, where)
    return Stack(order, box, offsets, (said, *_evened(_displacements(ordered, affine))))


def named(frames: Sequence[Frame]) -> str:
    """Frames by what a user finds them by, such as "InstanceNumber 3, 5-9 and 2 more"."""
    words = [f.name.rsplit(" ", 1) for f in frames]
    if not all(len(w) == 2 and w[1].isdigit() for w in words) or len({w[0] for w in words}) > 1:
        more = f" and {len(frames) - _NAMED} more" if len(frames) > _NAMED else ""
        return ", ".join(f.name for f in frames[:_NAMED]) + more
    runs: list[list[int]] = []
    for number in sorted({int(w[1]) for w in words}):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    more = f" and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return f"{words[0][0]} {', '.join(texts[:_NAMED])}{more}"


def _check_alike(frames: Sequence[Frame], where: str) -> None:
    """Sizes, distances of pixels and orientations are the same, as far as a tenth of a voxel tells."""
    sizes = [f.shape for f in frames]
    if len(set(sizes)) > 1:
        raise DatasetError(_odd(where, f"slices of {len(set(sizes))} sizes", frames, sizes, lambda s: f"{s[0]}x{s[1]}"))
    pixels = np.array(sizes[0]) - 1
    usual = np.array(Counter(f.spacing for f in frames).most_common(1)[0][0])
    spacings = [f.spacing if (np.abs(f.spacing - usual) / usual * pixels >= TOLERANCE).any() else tuple(usual)
                for f in frames]  # fmt: skip
    if len(set(spacings)) > 1:
        text = f"{len(set(spacings))} values of PixelSpacing"
        raise GeometryError(_odd(where, text, frames, spacings, lambda s: f"{s[0]:g}x{s[1]:g} mm"))
    reference = np.array(Counter(f.orientation for f in frames).most_common(1)[0][0])
    reach = (
        np.repeat(usual[::-1] * pixels[::-1], 3) / usual.min()
    )  # a turn moves the ends of rows and columns, in voxels
    turns = [f.orientation if (np.abs(f.orientation - reference) * reach >= TOLERANCE).any() else tuple(reference)
             for f in frames]  # fmt: skip
    if len(set(turns)) > 1:
        text = f"slices of {len(set(turns))} orientations (localizers, radial slices or several stacks)"
        raise GeometryError(_odd(where, text, frames, turns, lambda t: "\\".join(f"{v + 0.0:.4g}" for v in t)))


def _odd(where: str, what: str, frames: Sequence[Frame], keys: Sequence[Hashable], words: Callable[[Any], str]) -> str:
    by_key: dict[Hashable, list[Frame]] = {}
    for frame, key in zip(frames, keys, strict=True):
        by_key.setdefault(key, []).append(frame)
    groups = sorted(by_key.items(), key=lambda item: -len(item[1]))
    texts = [f"{words(key)} ({named(group)})" for key, group in groups[:3]]
    more = f", and {len(groups) - 3} more" if len(groups) > 3 else ""
    return f"{where} has {what}, which fill no box: {'; '.join(texts)}{more}. {_apart(frames)}"


def _apart(frames: Sequence[Frame]) -> str:
    if len({f.file for f in frames}) < len(frames):
        return "Export each volume as a series of its own; dcm2niix splits such files."
    return "Keep the files of one volume in a folder of their own."


def _axes(frames: Sequence[Frame], where: str) -> tuple[Array, Array, Array]:
    """Unit vectors along a row, along a column, and the normal of the planes."""
    turn = np.array(Counter(f.orientation for f in frames).most_common(1)[0][0])
    along_row, along_column = turn[:3], turn[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not np.isfinite(turn).all() or np.abs(np.subtract(lengths, 1)).max() > 0.01:
        raise GeometryError(
            f"{where} has no orientation: its ImageOrientationPatient {np.round(turn, 4).tolist()} is no pair of unit "
            f"vectors. Export it again."
        )
    along_row = along_row / lengths[0]
    skew = float(along_row @ along_column)
    if abs(skew) * max(frames[0].shape) >= TOLERANCE:
        raise GeometryError(
            f"The rows and columns of {where[0].lower()}{where[1:]} are not at right angles ("
            f"{np.degrees(np.arccos(skew)):.3f} degrees in its ImageOrientationPatient). Export it again."
        )
    along_column = along_column - skew * along_row
    along_column = along_column / np.linalg.norm(along_column)
    return along_row, along_column, np.cross(along_row, along_column)


def _check_positions(ordered: Sequence[Frame], heights: Array, rows: Array, columns: Array, where: str) -> None:
    """One slice a position."""
    pixel = min(ordered[0].spacing)
    starts = np.flatnonzero(np.r_[True, np.diff(heights) > _SAME * pixel])
    counts = np.diff(np.r_[starts, len(ordered)])
    if counts.max() == 1:
        return
    copies = Counter((f.sop_instance, f.index) for f in ordered)
    twice = [f for f in ordered if copies[f.sop_instance, f.index] > 1]
    if twice:
        raise DatasetError(
            f"{where} holds copies: {len({f.file for f in twice})} files have the SOPInstanceUID of another ("
            f"{named(twice)}). Keep one of each."
        )
    if len(counts) == 1:
        sideways = np.array([f.position for f in ordered]) @ np.array([rows, columns]).T
        aside = np.ptp(sideways, axis=0).max() > TOLERANCE * pixel
        how = "side by side in one plane" if aside else "at one position"
        raise GeometryError(
            f"{where} has {len(ordered)} images {how} ({named(ordered)}): a film, repeated images or copies, and no "
            f"volume. Take it out, or export single images as png."
        )
    if counts.min() == counts.max():
        raise DatasetError(
            f"{where} holds {counts[0]} images at each of {len(counts)} positions ({len(ordered)} images)"
            f"{_difference(ordered, starts, int(counts[0]))}: these are {counts[0]} volumes. {_apart(ordered)}"
        )
    doubled = [
        f
        for start, n in zip(starts.tolist(), counts.tolist(), strict=True)
        if n > 1
        for f in ordered[start : start + n]
    ]
    raise GeometryError(
        f"{where} has {len(counts)} positions, and at {int((counts > 1).sum())} of them up to {counts.max()} images: "
        f"{named(doubled)}. {_apart(ordered)}"
    )


def _difference(ordered: Sequence[Frame], starts: NDArray[np.integer], count: int) -> str:
    """The attribute that tells the volumes of one series apart, as part of a sentence."""
    for trait in dict.fromkeys(name for f in ordered for name in f.traits):
        by_value: dict[str, list[Frame]] = {}
        for frame in ordered:
            by_value.setdefault(frame.traits.get(trait, "none"), []).append(frame)
        if len(by_value) == count and all(
            len({f.traits.get(trait, "none") for f in ordered[s : s + count]}) == count for s in starts
        ):
            parts = [f"{value}: {named(group)}" for value, group in list(by_value.items())[:3]]
            more = f"; and {count - 3} more" if count > 3 else ""
            return f", which differ in {trait} ({'; '.join(parts)}{more})"
    return ""


def _check_gaps(ordered: Sequence[Frame], heights: Array, where: str) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > _GAP * usual)
    if len(gaps):
        parts = [f"{steps[k]:.4g} mm between {named(ordered[k : k + 1])} and {named(ordered[k + 1 : k + 2])}"
                 for k in gaps[:_NAMED]]  # fmt: skip
        raise GeometryError(
            f"{where} lacks slices, or its steps differ: {usual:.4g} mm apart as a rule, but {', '.join(parts)}"
            f"{' and so on' if len(gaps) > _NAMED else ''}. Export it whole."
        )


def _check_contrast(ordered: Sequence[Frame], where: str) -> None:
    """Refuse volumes of two contrasts or times that share the positions among themselves. Where (almost) each slice has
    a value of its own, that is how one volume was measured."""
    for trait in _CONTRASTS:
        groups: dict[str, list[Frame]] = {}
        for frame in ordered:
            groups.setdefault(_rounded(frame.traits.get(trait, "none")), []).append(frame)
        if 1 < len(groups) <= len(ordered) / 2:
            parts = [f"{value}: {named(group)}" for value, group in list(groups.items())[:3]]
            more = f"; and {len(groups) - 3} more" if len(groups) > 3 else ""
            raise DatasetError(
                f"{where} holds slices that differ in {trait} ({'; '.join(parts)}{more}): they are parts of "
                f"{len(groups)} volumes. {_apart(ordered)}"
            )


def _rounded(value: str) -> str:
    try:
        return f"{float(value):.3g}"
    except ValueError:
        return value


def _affine(ordered: Sequence[Frame], rows: Array, columns: Array) -> Array:
    """(4, 4): equal steps through the positions, by least squares; its third axis may lean."""
    positions = np.array([f.position for f in ordered])
    counted = np.arange(len(ordered)) - (len(ordered) - 1) / 2
    step = counted @ positions / (counted @ counted)
    between_rows, between_columns = ordered[0].spacing
    affine = np.eye(4)
    affine[:3] = np.column_stack((rows * between_columns, columns * between_rows, step,
                                  positions.mean(0) - step * (len(ordered) - 1) / 2))  # fmt: skip
    return affine


def _displacements(ordered: Sequence[Frame], affine: Array) -> Array:
    """(Z,): how far the corners of each slice lie from where its header has them, in voxels."""
    corners = np.array([(x, y) for y in (0, ordered[0].shape[0] - 1) for x in (0, ordered[0].shape[1] - 1)])
    turns = np.array([f.orientation for f in ordered]).reshape(-1, 2, 3)
    reach = corners[None] * np.array([f.spacing[::-1] for f in ordered])[:, None]  # (Z, 4, 2) mm along rows and columns
    world = np.array([f.position for f in ordered])[:, None] + reach @ turns
    voxels = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    voxels[..., :2] -= corners
    voxels[..., 2] -= np.arange(len(ordered))[:, None]
    return np.asarray(np.linalg.norm(voxels, axis=-1).max(axis=1))


def _evened(off: Array) -> tuple[str, ...]:
    if off.max() < 0.01:
        return ()
    return (f"its slices were put on an even grid, from which their headers differ by up to {off.max():.2g} voxels",)


def _uneven(ordered: Sequence[Frame], affine: Array, rows: Array, columns: Array, normal: Array, where: str) -> str:
    """Why slices do not lie in equal steps on a straight line."""
    apart = np.array([f.position for f in ordered]) - (affine[:3, 2] * np.arange(len(ordered))[:, None] + affine[:3, 3])
    pixel = np.array(ordered[0].spacing[::-1])
    aside = np.linalg.norm(apart @ np.array([rows, columns]).T / pixel, axis=1)
    along = np.abs(apart @ normal) / abs(affine[:3, 2] @ normal)
    if aside.max() >= along.max():
        worst = [f for f, off in zip(ordered, aside, strict=True) if off >= TOLERANCE]
        how = f"its slices are shifted sideways unevenly, by up to {aside.max():.2g} voxels"
    else:
        steps = np.diff(np.array([f.position for f in ordered]) @ normal)
        worst = [f for f, off in zip(ordered, along, strict=True) if off >= TOLERANCE]
        how = (
            f"its slices are unevenly spaced, {steps.min():.4g} to {steps.max():.4g} mm, up to {along.max():.2g} "
            f"voxels off equal steps"
        )
    return f"{where} fills no box: {how} ({named(worst or ordered)}). Export it again, or resample it yourself."


def _sheared(
    ordered: Sequence[Frame], affine: Array, rows: Array, columns: Array, normal: Array, where: str
) -> tuple[Grid, Array, str]:
    """The right-angled grid around slices that are shifted against each other, where each begins in it, and a word."""
    cosine = float(affine[:3, 2] @ normal / np.linalg.norm(affine[:3, 2]))
    angle = float(np.degrees(np.arccos(min(1.0, cosine))))
    if angle > _MOST_TILT:
        raise GeometryError(
            f"{where} fills no box: its slices lie on a line {angle:.3g} degrees off their normal, and a tilted gantry "
            f"or a drifting table explains at most {_MOST_TILT}. Export it again."
        )
    between_rows, between_columns = ordered[0].spacing
    positions = np.array([f.position for f in ordered])
    starts = np.column_stack((positions @ columns / between_rows, positions @ rows / between_columns))
    first = starts.min(0)
    offsets = starts - first
    step = float(affine[:3, 2] @ normal)
    origin = (columns * first[0] * between_rows + rows * first[1] * between_columns
              + normal * float(affine[:3, 3] @ normal))  # fmt: skip
    y, x = np.array(ordered[0].shape) + np.ceil(offsets.max(0) - 1e-6).astype(int)
    spacing = (step, between_rows, between_columns)
    direction = np.column_stack((rows, columns, normal))
    x0, y0, z0 = (float(v) for v in origin)
    box = Grid((len(ordered), int(y), int(x)), spacing, (x0, y0, z0), direction)
    said = (
        f"its slices are shifted evenly against each other (gantry tilt or table movement, {angle:.3g} degrees): they "
        f"were resampled onto a right-angled box of {'x'.join(map(str, box.shape))} voxels (z, y, x)"
    )
    return box, offsets, said


def _single(frame: Frame, rows: Array, columns: Array, normal: Array, where: str) -> Stack:
    direction = np.column_stack((rows, columns, normal))
    spacing = (frame.thickness or 1.0, *frame.spacing)
    said = () if frame.thickness else ("it has one slice of unknown thickness, which was taken as 1 mm",)
    return Stack((0,), Grid((1, *frame.shape), spacing, frame.position, direction), None, said)


def _radiograph(frames: Sequence[Frame], where: str) -> Stack:
    if len(frames) > 1:
        raise GeometryError(
            f"{where} has {len(frames)} radiographs ({named(frames)}), which lie nowhere in the patient and are no "
            f"volume. Put each into a folder of its own."
        )
    grid = nowhere((1, *frames[0].shape))
    placed = Grid(grid.shape, (1.0, *frames[0].spacing), grid.origin, grid.direction, in_world=False)
    return Stack((0,), placed, None, ("it is a radiograph: its pixels have a size, but no place in the patient",))
