"""Tif files: a picture, a stack, or channels, by what the file says of its axes, never by their lengths."""

from __future__ import annotations

import logging
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd import limits
from nnkd.data.reading.colours import (
    BLURRED,
    INVERTED,
    OF_CMYK,
    ORIENTATION,
    TURNED,
    named,
    said_of_alpha,
    turned,
)
from nnkd.data.reading.image import Image, flat, nowhere
from nnkd.errors import DatasetError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
WHITE_IS_ZERO, GREY, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # how colours are stored
JPEG = (6, 7)
ALPHA = (1, 2)  # what a sample beside the colours is
AXES = {"Z": "slices", "C": "channels", "T": "time points", "S": "colours", "I": "pages", "Q": "pages"}


def is_tif(file: Path) -> bool:
    """Whether a file is one, whatever its name."""
    with open(file, "rb") as stream:
        return stream.read(4) in STARTS


def read(file: Path, label_map: bool = False) -> Image:
    """Read a picture, a stack of grey ones, or several channels of either.

    Args:
        file: The file.
        label_map: Whether its values are labels: of a palette the indices are taken then, else the colours.

    Raises:
        DatasetError: If it is truncated or unreadable, too large, or holds time points, several images, or colours of
            a kind that is not read.
    """
    tifffile = _tifffile()
    try:
        with tifffile.TiffFile(file) as tif:
            series, said = _series(tif, file)
            return _image(series, said, file, label_map)
    except DatasetError:
        raise
    except MemoryError as error:
        raise DatasetError(f"{named(file)} does not fit into the memory. Cut it into tiles.") from error
    except Exception as error:  # decoders raise whatever they trip over
        why = in_one_line(error, last=True).replace(str(file), file.name)
        raise DatasetError(
            f"{named(file)} cannot be read ({why}). It may be truncated or of another format; copy or convert it "
            f"again, or take the case out."
        ) from error


@dataclass(frozen=True)
class Look:
    """What a tif file says of itself.

    Attributes:
        stack: Whether it holds more than one page of grey values.
        palette: Whether its values stand for other greys or colours.
        colour: Whether its pixels are red, green and blue.
    """

    stack: bool
    palette: bool
    colour: bool


def look(file: Path) -> Look:
    """Look at a tif file; voxels are not read.

    Raises:
        DatasetError: If it cannot be read, or holds several images.
    """
    tifffile = _tifffile()
    try:
        with tifffile.TiffFile(file) as tif:
            series, _ = _series(tif, file)
            page = series.keyframe
            return Look(bool(_more(series)), page.photometric == PALETTE, page.samplesperpixel > 1)
    except DatasetError:
        raise
    except Exception as error:  # as above
        raise DatasetError(f"{named(file)} cannot be read ({in_one_line(error, last=True)}). Copy it again.") from error


def _tifffile() -> Any:
    """The module. What it logs of a broken file, as it reads on, is looked for here and refused."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def _series(tif: Any, file: Path) -> tuple[Any, tuple[str, ...]]:
    """The one image that a file holds, and what is to be said of what else is there."""
    count = len(tif.pages)
    if not count:
        raise ValueError("it holds no page")
    tif.filehandle.seek(tif.pages.next_page_offset)
    if struct.unpack(tif.tiff.offsetformat, tif.filehandle.read(tif.tiff.offsetsize))[0]:
        raise DatasetError(f"{named(file)} is truncated: pages behind page {count} are missing. Copy it again.")
    everything = tif.series
    if sum(len(level.pages) for series in everything for level in series.levels) < count:
        raise DatasetError(f"{named(file)} holds {count} pages, but says otherwise. Export it again.")
    images = [s for s in everything if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
    if len(images) != 1:
        shapes = ", ".join(" x ".join(map(str, s.shape)) for s in everything[:5])
        raise DatasetError(
            f"{named(file)} holds {len(everything)} images ({shapes}{' ...' if len(everything) > 5 else ''}), but one "
            f"picture, or pages of one size are expected. Split it."
        )
    series = images[0]
    if any(page is None or page.parent is not tif for page in series.pages):
        raise DatasetError(f"Parts of {named(file)} lie in other files. Export it as one file.")
    if series.keyframe.imagewidth * series.keyframe.imagelength > limits.PIXELS.value * 1e6:
        raise DatasetError(too_many_pixels(file))
    problem = limits.too_large(math.prod(series.shape) * max(4, series.dtype.itemsize), file.stat().st_size)
    if problem:
        raise DatasetError(f"{named(file)} announces {' x '.join(map(str, series.shape))} values: it {problem}")
    passed = len(series.levels) > 1 or len(everything) > 1
    return series, ("smaller copies or masks in the file were passed over",) if passed else ()


def too_many_pixels(file: Path) -> str:
    """The sentence for a picture over the limit."""
    most, variable = limits.PIXELS.value, limits.PIXELS.variable
    return (
        f"{named(file)} has more pixels than are read at once (about {most:.0f} million). Cut it into tiles, or raise "
        f"{variable} (million)."
    )


def _more(series: Any) -> list[str]:
    """The axes beside rows, columns and colours, in order; pages without a meaning are slices."""
    axes = [axis for axis, n in zip(series.axes, series.shape, strict=True) if axis not in "YXS" and n > 1]
    if "Z" not in axes and sum(axis in "IQ" for axis in axes) == 1:
        return ["Z" if axis in "IQ" else axis for axis in axes]
    return axes


def _image(series: Any, said: tuple[str, ...], file: Path, label_map: bool) -> Image:
    page, more = series.keyframe, _more(series)
    samples = dict(zip(series.axes, series.shape, strict=True)).get("S", 1)
    if len(set(more)) < len(more) or not set(more) <= {"Z", "C"} or (more and samples > 1):
        words = [f"{n} {AXES.get(a, 'pages')}" for a, n in zip(series.axes, series.shape, strict=True) if a not in "YX"]
        raise DatasetError(
            f"{named(file)} holds {' x '.join(words)}, but one picture, or grey pages of one size are expected. "
            f"Split it."
        )
    array = _voxels(series, more, file)
    if page.bitspersample == 1:
        array = array.astype(np.uint8)
    array, sentences = _inverted(array, page, file, label_map)
    said += sentences
    if page.bitspersample == 1 and not label_map:
        array = array * np.uint8(255)
    array, colour, sentences = _coloured(array, page, file, label_map)
    said += sentences + ((BLURRED,) if label_map and page.compression in JPEG else ())
    orientation = page.tags.valueof(ORIENTATION, 1)
    said += (TURNED,) if orientation in range(2, 9) else ()
    array = turned(array, orientation)
    if "Z" not in more:
        return replace(flat(array[:, 0], colour), said=said)
    return Image(np.ascontiguousarray(array), nowhere(array.shape[1:]), said=said)


def _voxels(series: Any, more: list[str], file: Path) -> NDArray[Any]:
    """(C, Z, Y, X); of a picture in colours C are these."""
    array = np.asarray(series.asarray())
    if array.dtype.kind not in "iufb":
        raise DatasetError(f"{named(file)} holds {array.dtype} values, but one real number a pixel is expected.")
    array = array.astype(np.float32) if array.dtype == np.float16 else array
    order = iter(more)
    kept = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YXS" or n > 1]
    letters = ["C" if axis == "S" else axis if axis in "YX" else next(order) for axis, _ in kept]
    array = array.reshape([n for _, n in kept])
    for missing in sorted({"C", "Z"} - set(letters)):
        array, letters = array[None], [missing, *letters]
    return array.transpose([letters.index(axis) for axis in "CZYX"])


def _inverted(array: NDArray[Any], page: Any, file: Path, label_map: bool) -> tuple[NDArray[Any], tuple[str, ...]]:
    if page.photometric != WHITE_IS_ZERO:
        return array, ()
    if array.dtype.kind != "u" or (label_map and page.bitspersample > 1):
        raise DatasetError(
            f"In {named(file)} zero is white, so that its values may be upside down. Export it so that zero is black."
        )
    return array.dtype.type(2**page.bitspersample - 1) - array, (INVERTED,)


def _coloured(
    array: NDArray[Any], page: Any, file: Path, label_map: bool
) -> tuple[NDArray[Any], bool, tuple[str, ...]]:
    """(C, Z, Y, X) as it is meant, whether in colour, and what is to be said."""
    kind, samples, extra = int(page.photometric), page.samplesperpixel, tuple(page.extrasamples)
    if kind in (WHITE_IS_ZERO, GREY):
        if samples == 2 and extra and extra[0] in ALPHA:
            return array[:1], False, said_of_alpha(array[1], file, label_map)
        return array, False, ()
    if kind == PALETTE and not label_map:
        return _of_palette(array, page)
    if kind == PALETTE:
        return array, False, ()
    if kind == RGB or (kind == YCBCR and page.compression in JPEG and samples == 3):  # which the decoder makes RGB
        if samples not in (3, 4):
            raise DatasetError(
                f"{named(file)} has {samples - 3} channels beside its colours. Export its colours alone."
            )
        if samples == 3:
            return array, True, ()
        said = said_of_alpha(array[3], file, label_map)
        if said and not (extra and extra[0] in ALPHA):
            raise DatasetError(f"{named(file)} has a fourth channel of unknown meaning. Export its colours alone.")
        return array[:3], True, said
    if kind == CMYK and samples == 4 and array.dtype == np.uint8:
        from PIL import Image as Pillow

        inks = Pillow.fromarray(np.ascontiguousarray(np.moveaxis(array[:, 0], 0, -1)), "CMYK")
        return np.moveaxis(np.asarray(inks.convert("RGB")), -1, 0)[:, None], True, (OF_CMYK,)
    raise DatasetError(f"{named(file)} stores colours as {page.photometric.name}, which is not read. Export it as RGB.")


def _of_palette(array: NDArray[Any], page: Any) -> tuple[NDArray[Any], bool, tuple[str, ...]]:
    colours = (np.asarray(page.colormap) >> 8).astype(np.uint8)  # stored in 16 bits
    if (colours == colours[:1]).all():
        return colours[0][array], False, ()
    if array.shape[1] > 1:  # a stack that a microscope shows in false colours
        return array, False, ("its values were taken, not the colours of its palette",)
    return colours[:, array[0]], True, ()
