"""nnU-Net's readers and writers: which one a dataset needs, and what goes wrong in them as one sentence."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nnkd.data.reading import nifti, raw_pictures
from nnkd.data.reading.formats import read as read_image
from nnkd.data.reading.formats import say
from nnkd.errors import DatasetError, GeometryError, in_one_line
from nnkd.files import is_visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAIN = "SimpleITKIO"  # nnU-Net's reader of most files, which keeps the order of the axes
HEADER = "nnkd_header"  # among nnU-Net's properties: what of the image's header is copied


class _Header(Protocol):
    """As much of SimpleITK's reader as is asked for here."""

    def SetFileName(self, name: str, /) -> object: ...

    def ReadImageInformation(self) -> object: ...

    def GetDimension(self) -> int: ...

    def GetNumberOfComponents(self) -> int: ...


class Reader:
    """One of nnU-Net's readers and writers, with every file looked at first, and written with its image's own header.

    A NIfTI file lies where its sform says, also where ITK would take its qform, and axes a hair off a right angle are
    made right (`nifti.read_header`); anything else is read as nnU-Net reads it, or refused where that would be wrong
    (`raw_pictures`).

    Args:
        own: nnU-Net's.
    """

    def __init__(self, own: Any):
        self.own = own

    @property
    def name(self) -> str:
        """The class's name, as plans spell it."""
        return type(self.own).__name__

    def read_images(self, files: Sequence[str | Path]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Read one case.

        Args:
            files: One a channel, or one with all channels.

        Returns:
            (C, Z, Y, X) float32 in file order (re-oriented, if that is what the reader does), and nnU-Net's properties.

        Raises:
            DatasetError: If a file is missing, empty, truncated or unreadable.
            GeometryError: If channels differ in size or place, or axes are not at right angles.
        """
        return self._read([Path(file) for file in files])

    def read_seg(self, file: str | Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Read a label map: (1, Z, Y, X) float32, and nnU-Net's properties. Raises as `read_images`."""
        return self._read([Path(file)], is_label_map=True)

    def check(self, file: Path, is_label_map: bool = False) -> None:
        """Look at a file that nnU-Net itself will read, without reading its voxels.

        Raises:
            DatasetError: If it is missing, empty or truncated, or nnU-Net would read other values than it means.
            GeometryError: If nnU-Net would not read it, since its axes are off a right angle.
        """
        _check_there(file)
        self._check_picture(file, is_label_map)
        if self.name != PLAIN or not file.name.lower().endswith(nifti.NIFTI_ENDINGS):
            return
        if not nifti.read_header(file).right_angled:
            raise GeometryError(
                f"nnU-Net does not read '{file.name}' in {file.parent.name}: its axes are a little off a right angle. "
                f"Convert the folder with 'nnKD_convert_dataset images_folder', which makes them right."
            )

    def write_seg(self, label_map: NDArray[np.integer], file: str | Path, properties: Mapping[str, Any]) -> None:
        """Write a label map on the grid of `properties`, with the header of the file they come from.

        Args:
            label_map: (Z, Y, X) integers, in the reader's order.
            file: The target, written in place.
            properties: What `read_images` returned.
        """
        if self.name == raw_pictures.STACKS:
            raw_pictures.write_stack(label_map, Path(file), properties["spacing"])
        else:
            self.own.write_seg(label_map, str(file), dict(properties))
        with_header(Path(file), properties)

    def _check_picture(self, file: Path, is_label_map: bool) -> None:
        say(file, raw_pictures.check(file, raw_pictures.reader_name(self.own, file, is_label_map), is_label_map))

    def _read(self, files: list[Path], is_label_map: bool = False) -> tuple[NDArray[np.float32], dict[str, Any]]:
        for file in files:
            _check_there(file)
            self._check_picture(file, is_label_map)
        headers = [nifti.read_header(f) for f in files if f.name.lower().endswith(nifti.NIFTI_ENDINGS)]
        _check_together(files, headers)
        for file, header in zip(files, headers, strict=bool(headers)):
            say(file, header.said)
        if self.name == PLAIN and any(not header.exact for header in headers):
            array, properties = _assembled(files, headers[0])
        else:
            array, properties = self._own(files, is_label_map)
        if headers and headers[0].needed:
            properties[HEADER] = headers[0].stored
        if raw_pictures.reader_name(self.own, files[0], is_label_map) == raw_pictures.STACKS:
            properties |= raw_pictures.in_world(files[0], is_label_map)
        return array, properties

    def _own(self, files: list[Path], is_label_map: bool) -> tuple[NDArray[np.float32], dict[str, Any]]:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                found = (
                    self.own.read_seg(str(files[0])) if is_label_map else self.own.read_images(list(map(str, files)))
                )
        except Exception as error:  # readers raise whatever their libraries raise
            why = said.getvalue().strip().replace("\n", "; ") or in_one_line(error, last=True)
            raise DatasetError(
                f"{', '.join(repr(f.name) for f in files)} in {files[0].parent.name} cannot be read ({why[:200]}). It "
                f"may be truncated or of another format, or its channels differ in size or spacing; copy or convert "
                f"it again."
            ) from error
        array, properties = found
        return array, properties


def preprocessed(
    preprocessor: Any, files: Sequence[str], label_map: str | None, plans: Any, configuration: Any, json: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.int8], dict[str, Any]]:
    """What the preprocessor's own `run_case` returns, its files read behind the door.

    Args:
        preprocessor: One of nnU-Net's.
        files, label_map, plans, configuration, json: As for its `run_case`.
    """
    reader = Reader(plans.image_reader_writer_class())
    data, properties = reader.read_images(files)
    seg = None if label_map is None else reader.read_seg(label_map)[0]
    data, seg, properties = preprocessor.run_case_npy(data, seg, properties, plans, configuration, json)
    return data, seg, properties


def with_header(file: Path, properties: Mapping[str, Any]) -> None:
    """Give a written NIfTI file the header of the image that `properties` come from; other files stay as they are.

    Args:
        file: The file.
        properties: What `Reader.read_images` returned.
    """
    if HEADER in properties and file.name.lower().endswith(nifti.NIFTI_ENDINGS):
        nifti.copy_header(file, properties[HEADER])


def _check_together(files: Sequence[Path], headers: Sequence[nifti.Header]) -> None:
    for file, header in zip(files[1:], headers[1:], strict=False):
        difference = headers[0].grid.difference(header.grid)
        if difference:
            raise GeometryError(
                f"'{file.name}' does not lie where '{files[0].name}' lies: {difference}. Resample the channels to one "
                f"grid."
            )


def _assembled(files: Sequence[Path], header: nifti.Header) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """What SimpleITKIO would have returned, had it read the header as it is meant."""
    arrays = [read_image(file).array for file in files]
    array = np.concatenate([a.astype(np.float32, copy=False) for a in arrays])
    grid = header.grid
    stuff = {"spacing": grid.spacing[::-1], "origin": grid.origin, "direction": tuple(np.ravel(grid.direction))}
    return array, {"sitk_stuff": stuff, "spacing": list(grid.spacing)}


def reader_of(dataset_json: Mapping[str, Any], name: str, folder: Path | None = None) -> Reader:
    """nnU-Net's reader and writer for a dataset's files, behind the door.

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
    if ending.startswith(".tif") and example is None and "overwrite_image_reader_writer" not in dataset_json:
        return Reader(raw_pictures.EitherTif())
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # nnU-Net prints a traceback per reader that does not fit
            return Reader(determine_reader_writer_from_dataset_json(dict(dataset_json), example, verbose=False)())
    except RuntimeError as error:
        raise DatasetError(f"nnU-Net has no reader for '{ending}' files ({name}).") from error


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise DatasetError(f"'{file.name}' is missing in {file.parent.name}.")
    if file.stat().st_size == 0:
        raise DatasetError(f"'{file.name}' in {file.parent.name} is empty (0 bytes). Copy or convert it again.")
    nifti.check_whole(file)


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
