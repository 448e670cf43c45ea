"""Pictures: png, jpg, bmp and gif as their colours are meant, or, of a label map, as its values are; tif see `tifs`.

Colour profiles and gamma are left alone, as nnU-Net leaves them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd import limits
from nnkd.data.reading import tifs
from nnkd.data.reading.colours import BLURRED, OF_CMYK, ORIENTATION, TURNED, named, said_of_alpha, turned
from nnkd.data.reading.image import Image, ending_of, flat
from nnkd.errors import DatasetError, in_one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "BMP": (".bmp",), "GIF": (".gif",)}  # Pillow's names
SEVERAL = "MPO"  # a jpg with more pictures behind the photograph: previews, depth
PNG_START, PNG_GREY, PNG_RGB = b"\x89PNG\r\n\x1a\n", 0, 2


def read(file: Path, label_map: bool = False) -> Image:
    """Read a picture, or a stack of grey ones. What it is its content says, not its name.

    Args:
        file: A png, jpg, bmp, gif or tif file.
        label_map: Whether its values are labels: of a palette the indices are taken then, else the colours.

    Raises:
        DatasetError: If it is unreadable, too large, animated, or of a kind whose values nobody can be sure of.
    """
    if tifs.is_tif(file):
        return tifs.read(file, label_map)
    from PIL import Image as Pillow

    _limit(Pillow)
    try:
        with Pillow.open(file, formats=[*FORMATS]) as picture:
            return _read(picture, file, label_map)
    except DatasetError:
        raise
    except Pillow.UnidentifiedImageError as error:  # it names the file and no more
        raise DatasetError(f"{named(file)} is no picture that can be read. Convert it or copy it again.") from error
    except Pillow.DecompressionBombError as error:
        raise DatasetError(tifs.too_many_pixels(file)) from error
    except Exception as error:  # decoders raise whatever they trip over
        why = in_one_line(error, last=True).replace(str(file), file.name)
        raise DatasetError(
            f"{named(file)} cannot be read ({why}). It may be truncated or of another format; copy or convert it "
            f"again, or take the case out."
        ) from error


@dataclass(frozen=True)
class Form:
    """How a picture stores its values.

    Attributes:
        plain: Whether nnU-Net reads the same values as `read`: a png of greys in 8 or 16 bits, or of RGB in 8, with
            nothing beside.
        one_value: Whether it has one value a pixel, and no palette.
        palette: Whether it has a palette.
        deep_colours: Whether its colours have 16 bits, of which Pillow, and so nnU-Net, reads 8.
    """

    plain: bool
    one_value: bool
    palette: bool
    deep_colours: bool


def form_of(file: Path) -> Form:
    """Look at a png, jpg, bmp or gif file; pixels are not read.

    Raises:
        DatasetError: If it cannot be read.
    """
    from PIL import Image as Pillow

    _limit(Pillow)
    try:
        with Pillow.open(file, formats=[*FORMATS]) as picture:
            mode, transparent = picture.mode, picture.has_transparency_data
    except Pillow.DecompressionBombError as error:
        raise DatasetError(tifs.too_many_pixels(file)) from error
    except Exception as error:  # as above
        raise DatasetError(f"{named(file)} is no picture that can be read. Convert it or copy it again.") from error
    png = _png_form(file)
    return Form(
        plain=png in ((8, PNG_GREY), (16, PNG_GREY), (8, PNG_RGB)) and not transparent,
        one_value=mode in ("1", "L", "I", "F") or mode.startswith("I;"),
        palette=mode == "P",
        deep_colours=png is not None and png[0] == 16 and png[1] != PNG_GREY,
    )


def _limit(pillow: Any) -> None:
    """What is larger than allowed is an error of Pillow's; of what is half as large it would only warn."""
    pillow.MAX_IMAGE_PIXELS = int(limits.PIXELS.value * 1e6 / 2)
    warnings.simplefilter("ignore", pillow.DecompressionBombWarning)


def _png_form(file: Path) -> tuple[int, int] | None:
    """Bits and colour type of a png; None: it is none."""
    with open(file, "rb") as stream:
        start = stream.read(26)
    return (start[24], start[25]) if start.startswith(PNG_START) and len(start) == 26 else None


def _read(picture: Picture, file: Path, label_map: bool) -> Image:
    said = _said_of_content(picture, file, label_map)
    channels, alpha, more = _channels(picture, file, label_map)
    if alpha is not None:
        more += said_of_alpha(alpha, file, label_map)
    orientation = picture.getexif().get(ORIENTATION, 1)
    more += (TURNED,) if orientation in range(2, 9) else ()
    return replace(flat(turned(channels, orientation), colour=len(channels) == 3), said=(*said, *more))


def _said_of_content(picture: Picture, file: Path, label_map: bool) -> tuple[str, ...]:
    count = getattr(picture, "n_frames", 1)
    kind = "JPEG" if picture.format == SEVERAL else str(picture.format)
    if count > 1 and picture.format != SEVERAL:
        raise DatasetError(
            f"{named(file)} holds {count} pictures (an animation), but one is expected. Save each that is wanted as a "
            f"png, or all of them as a tif stack."
        )
    said = [f"it holds {count} pictures: the first was taken"] if count > 1 else []
    if ending_of(file) not in FORMATS[kind]:
        said.append(f"it was read as {kind}, which its content is")
    return (*said, BLURRED) if label_map and kind == "JPEG" else tuple(said)


def _channels(
    picture: Picture, file: Path, label_map: bool
) -> tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]:
    """(C, Y, X) as stored, opacity (Y, X) or None, and what is to be said."""
    form = _png_form(file)
    if form is not None and form[0] == 16 and form[1] != PNG_GREY:  # Pillow drops the lower 8 bits without a word
        return (*_sixteen_bits(file), ())
    if picture.mode == "P":
        return _of_palette(picture, label_map)
    if picture.mode == "1":
        bits = np.asarray(picture).astype(np.uint8)
        return (bits if label_map else bits * np.uint8(255))[None], None, ()
    if picture.mode in ("L", "RGB", "I", "F") or picture.mode.startswith("I;"):
        array = np.asarray(picture)
        channels = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        if label_map and form in ((2, PNG_GREY), (4, PNG_GREY)):  # Pillow stretches them to 255
            channels = channels // np.uint8(255 // (2 ** form[0] - 1))
        return channels, None if label_map else _keyed(channels, picture.info.get("transparency")), ()
    if picture.mode in ("LA", "RGBA"):
        array = np.moveaxis(np.asarray(picture), -1, 0)
        return array[:-1], array[-1], ()
    said = (OF_CMYK,) if picture.mode == "CMYK" else (f"{picture.mode} was made RGB",)
    return np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0), None, said


def _keyed(channels: NDArray[Any], key: Any) -> NDArray[np.uint8] | None:
    """Opacity where one value, or colour, is the transparent one."""
    if key is None:
        return None
    hidden: NDArray[np.bool_] = (channels == np.reshape(key, (-1, 1, 1))).all(0)
    return np.where(hidden, 0, 255).astype(np.uint8)


def _of_palette(picture: Picture, label_map: bool) -> tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]:
    palette = picture.getpalette() or []
    indices, grey = np.asarray(picture), _is_grey(palette)
    if label_map and not (grey and picture.format == "GIF"):  # gif has nothing but palettes: its greys are meant
        numbered = not grey or all(palette[3 * k] == k for k in np.unique(indices).tolist() if 3 * k < len(palette))
        said = () if numbered else ("its palette is grey: the palette's indices were taken, not the greys",)
        return indices[None], None, said
    colours = np.moveaxis(np.asarray(picture.convert("RGBA")), -1, 0)
    channels = colours[:1] if grey else colours[:3]
    return channels, None if label_map else colours[3], ()


def _is_grey(palette: Sequence[int]) -> bool:
    return list(palette[0::3]) == list(palette[1::3]) == list(palette[2::3])


def _sixteen_bits(file: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    import SimpleITK

    try:
        array = np.moveaxis(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))), -1, 0)
    except RuntimeError as error:  # grey with transparency
        raise DatasetError(
            f"{named(file)} has 16 bits and transparency, which is not read. Export it without transparency."
        ) from error
    return array[:3], array[3] if len(array) == 4 else None
