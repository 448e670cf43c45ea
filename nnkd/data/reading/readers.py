"""nnU-Net's readers and writers: which one a dataset needs, and what goes wrong in them as one sentence."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from nnkd.data.reading.nifti import check_whole
from nnkd.errors import DatasetError, in_one_line
from nnkd.files import is_visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)


class _Header(Protocol):
    """As much of SimpleITK's reader as is asked for here."""

    def SetFileName(self, name: str, /) -> object: ...

    def ReadImageInformation(self) -> object: ...

    def GetDimension(self) -> int: ...

    def GetNumberOfComponents(self) -> int: ...


def reader_of(dataset_json: Mapping[str, Any], name: str, folder: Path | None = None) -> Any:
    """nnU-Net's reader and writer for a dataset's files.

    Args:
        dataset_json: Its dataset.json.
        name: What to call it in messages.
        folder: Where it lies. nnU-Net reads .tif as 2D or as a stack, and only an image tells which.

    Raises:
        DatasetError: If nnU-Net reads no such ending.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    ending = dataset_json["file_ending"]
    images = folder.glob(f"images*/*{ending}") if folder and ending.startswith(".tif") else ()
    example = next((str(f) for f in sorted(images) if is_visible(f)), None)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # nnU-Net prints a traceback per reader that does not fit
            return determine_reader_writer_from_dataset_json(dict(dataset_json), example, verbose=False)()
    except RuntimeError as error:
        raise DatasetError(f"nnU-Net has no reader for '{ending}' files ({name}).") from error


def read(
    reader: Callable[[Any], tuple[NDArray[Number], dict[str, Any]]], what: Any, files: Sequence[Path]
) -> tuple[NDArray[Number], dict[str, Any]]:
    """Call `read_images` or `read_seg` of a reader.

    Args:
        reader: That method.
        what: Its argument.
        files: The files it will open.

    Raises:
        DatasetError: If a file is missing, empty, truncated or unreadable, or the channels differ in size.
    """
    for file in files:
        _check_there(file)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return reader(what)
    except Exception as error:  # readers raise whatever their libraries raise
        why = said.getvalue().strip().replace("\n", "; ") or in_one_line(error, last=True)
        raise DatasetError(
            f"{', '.join(repr(f.name) for f in files)} in {files[0].parent.name} cannot be read ({why[:200]}). It may "
            f"be truncated or of another format, or its channels differ in size or spacing; copy or convert it again."
        ) from error


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise DatasetError(f"'{file.name}' is missing in {file.parent.name}.")
    if file.stat().st_size == 0:
        raise DatasetError(f"'{file.name}' in {file.parent.name} is empty (0 bytes). Copy or convert it again.")
    check_whole(file)


def may_hold_channels(file: Path) -> bool:
    """Whether one file may be several channels: a picture (RGB), or a volume of four dimensions. Only the header is
    read; `ImageFolder.read` counts the channels."""
    if file.name.lower().endswith((".png", ".bmp", ".tif", ".tiff")):
        return True
    import SimpleITK

    new_header: Callable[[], _Header] = SimpleITK.ImageFileReader
    header = new_header()
    header.SetFileName(str(file))
    try:
        header.ReadImageInformation()
    except RuntimeError:
        return True  # broken: reading it says why
    return header.GetDimension() == 4 or header.GetNumberOfComponents() > 1
