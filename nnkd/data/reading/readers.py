"""nnU-Net's readers and writers: which one a dataset needs, and what goes wrong in them as one sentence."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.reading import itk, memory, nifti, raw_pictures
from nnkd.data.reading.formats import look, say
from nnkd.data.reading.formats import read as read_image
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.data.reading.image import VOLUMES, check_finite, ending_of, without_nan
from nnkd.errors import DatasetError, GeometryError, in_one_line
from nnkd.files import is_visible
from nnkd.warned import pass_on_warnings

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("nnkd")
PLAIN = "SimpleITKIO"  # nnU-Net's reader of most files, which keeps the order of the axes
NO_THIRD_AXIS = 999  # nnU-Net's: how much larger than the others the third spacing of a flat image is
HEADER = "nnkd_header"  # among nnU-Net's properties: what of the image's header is copied
NOTES = "nnkd_notes"  # and what was changed in its values, as sentences for the manifest


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
            DatasetError: If a file is missing, empty, truncated or unreadable, or a value is no number.
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
            GeometryError: If nnU-Net would not read it, or not as it is meant.
        """
        _check_there(file)
        self._check_picture(file, is_label_map)
        header = look(file) if self.name == PLAIN and ending_of(file) in VOLUMES else None
        if header is not None and header.misread:
            raise GeometryError(
                f"nnU-Net does not read '{file.name}' in {file.parent.name} as it is meant: {header.misread}. Convert "
                f"the folder with 'nnKD_convert_dataset images_folder', which writes files that it reads."
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
        headers = [header for file in files if ending_of(file) in VOLUMES and (header := look(file)) is not None]
        _check_together(files, headers)
        for file, header in zip(files, headers, strict=False):
            say(file, header.said)
        if self.name == PLAIN and headers and not all(header.exact and not header.real for header in headers):
            array, properties = _assembled(files, headers, is_label_map)
        else:
            array, properties = self._own(files, is_label_map)
            _only_space(properties)
            if headers and len(headers[0].shape) > 2:
                self._check_place(files[0], headers[0].grid, Grid.from_properties(array.shape[1:], properties))
        _check_values(array, files, is_label_map, properties)
        for sentence in properties.get(NOTES, ()):
            log.warning("%s", sentence)
        if headers and headers[0].needed:
            properties[HEADER] = headers[0].stored
        if raw_pictures.reader_name(self.own, files[0], is_label_map) == raw_pictures.STACKS:
            properties |= raw_pictures.in_world(files[0], is_label_map)
        return array, properties

    def _check_place(self, file: Path, meant: Grid, found: Grid) -> None:
        """Refuse what a reader puts elsewhere than the header does (those that turn axes, or know no units)."""
        if not (meant.in_world and found.in_world) or 1 in (meant.shape[0], found.shape[0]):
            return  # a single slice is not turned, so that orders of its axes cannot be told apart
        difference = Orientation(found).grid.difference(Orientation(meant).grid)
        if difference:
            raise GeometryError(
                f"nnU-Net's reader {self.name} puts '{file.name}' in {file.parent.name} elsewhere than its header does "
                f"({difference}). Convert the folder with 'nnKD_convert_dataset images_folder'."
            )

    def _own(self, files: list[Path], is_label_map: bool) -> tuple[NDArray[np.float32], dict[str, Any]]:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), np.errstate(over="ignore"):  # what float32 does not hold: looked for
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
        pass_on_warnings(f"nnU-Net's reader of '{files[0].name}'", said.getvalue())
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
    memory.check_resampled(data, properties["spacing"], configuration, plans, f"'{Path(files[0]).name}'")
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


def note(properties: dict[str, Any], sentences: Sequence[str]) -> None:
    """Say what is odd about a case's images, and keep it for the manifest."""
    for sentence in sentences:
        log.warning("%s", sentence)
    if sentences:
        properties[NOTES] = [*properties.get(NOTES, ()), *sentences]


def noted(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of a case's images: what was changed in them, or is odd; nothing, if nothing is."""
    return {"images": list(properties[NOTES])} if NOTES in properties else {}


def _check_together(files: Sequence[Path], headers: Sequence[nifti.Header]) -> None:
    for file, header in zip(files[1:], headers[1:], strict=False):
        difference = headers[0].grid.difference(header.grid)
        if difference:
            raise GeometryError(
                f"'{file.name}' does not lie where '{files[0].name}' lies: {difference}. Resample the channels to one "
                f"grid."
            )


def _check_values(
    array: NDArray[np.float32], files: Sequence[Path], is_label_map: bool, properties: dict[str, Any]
) -> None:
    """Refuse voxels that are no number; NaN of NIfTI images become 0, in place, and the properties' notes say so."""
    for k, channel in enumerate(array):
        file = files[k if len(files) == len(array) else 0]
        what = f"'{file.name}' in {file.parent.name}"
        if is_label_map or not file.name.lower().endswith(nifti.NIFTI_ENDINGS):
            check_finite(channel, what)
            continue
        channel[...], said = without_nan(channel, what)
        if said:
            properties.setdefault(NOTES, []).extend(f"{what}: {sentence}." for sentence in said)


def _assembled(
    files: Sequence[Path], headers: Sequence[nifti.Header], is_label_map: bool
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """What SimpleITKIO would have returned, had it read the file as it is meant: of NIfTI it reads NaN and infinite
    values as 0 without a word."""
    images = [read_image(file, is_label_map) for file in files]
    array = np.concatenate([image.array.astype(np.float32, copy=False) for image in images])
    notes = [
        f"'{file.name}' in {file.parent.name}: {sentence}."
        for file, image, header in zip(files, images, headers, strict=True)
        for sentence in image.said
        if sentence not in header.said
    ]
    noted = {NOTES: notes} if notes else {}
    grid = headers[0].grid
    z, y, x = grid.spacing
    if images[0].flat:
        stuff = {"spacing": (x, y), "origin": grid.origin[:2], "direction": (1.0, 0.0, 0.0, 1.0)}
        return array, {"sitk_stuff": stuff, "spacing": [max(y, x) * NO_THIRD_AXIS, y, x], **noted}
    stuff = {"spacing": (x, y, z), "origin": grid.origin, "direction": tuple(np.ravel(grid.direction).tolist())}
    return array, {"sitk_stuff": stuff, "spacing": [z, y, x], **noted}


def _only_space(properties: dict[str, Any]) -> None:
    """Take the axis of the channels out of what SimpleITKIO says, which would not write a label map with it."""
    stuff = properties.get("sitk_stuff", {"spacing": ()})
    axes = len(stuff["spacing"])
    if axes > 3:
        direction = np.asarray(stuff["direction"], dtype=float).reshape(axes, axes)[:3, :3]
        space = {key: tuple(stuff[key][:3]) for key in ("spacing", "origin")}
        properties["sitk_stuff"] = {**space, "direction": tuple(direction.ravel().tolist())}


def reader_of(dataset_json: Mapping[str, Any], name: str, folder: Path | None = None) -> Reader:
    """nnU-Net's reader and writer for a dataset's files, behind the door.

    Args:
        dataset_json: Its dataset.json.
        name: What to call it in messages.
        folder: Where it lies. nnU-Net reads .tif as 2D or as a stack, and only an image tells which.

    Raises:
        DatasetError: If nnU-Net reads no such ending.
    """
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    ending = dataset_json["file_ending"]
    images = folder.glob(f"images*/*{ending}") if folder and ending.startswith(".tif") else ()
    example = next((str(f) for f in sorted(images) if is_visible(f)), None)
    if ending.startswith(".tif") and example is None and "overwrite_image_reader_writer" not in dataset_json:
        return Reader(raw_pictures.EitherTif())
    try:
        with without_tracebacks():
            found = determine_reader_writer_from_dataset_json(dict(dataset_json), example, verbose=False)
    except RuntimeError as error:
        raise DatasetError(f"nnU-Net has no reader for '{ending}' files ({name}).") from error
    if not (isinstance(found, type) and issubclass(found, BaseReaderWriter)):  # it takes whatever has that name
        raise DatasetError(
            f"dataset.json of {name} names '{dataset_json['overwrite_image_reader_writer']}' as "
            f"overwrite_image_reader_writer, which is no reader of nnU-Net's. Correct it, or take it out."
        )
    return Reader(found())


@contextlib.contextmanager
def without_tracebacks() -> Iterator[None]:
    """nnU-Net prints one for each of its readers of tif that does not fit, and then takes the next."""
    from nnunetv2.imageio import reader_writer_registry

    theirs = reader_writer_registry.traceback
    reader_writer_registry.traceback = SimpleNamespace(print_exc=lambda: None)
    try:
        yield
    finally:
        reader_writer_registry.traceback = theirs


def _check_there(file: Path) -> None:
    if not file.is_file():
        raise DatasetError(f"'{file.name}' is missing in {file.parent.name}.")
    if file.stat().st_size == 0:
        raise DatasetError(f"'{file.name}' in {file.parent.name} is empty (0 bytes). Copy or convert it again.")
    memory.check_announced(file)  # first: a few MiB may unpack to hundreds of GiB
    nifti.check_whole(file)


def may_hold_channels(file: Path) -> bool:
    """Whether one file may be several channels: a picture (RGB), or a volume of four dimensions. Only the header is
    read; `ImageFolder.read` counts the channels."""
    if file.name.lower().endswith((".png", ".bmp", ".tif", ".tiff")):
        return True
    seen = itk.information(file)
    return seen is None or len(seen.shape) == 4 or seen.components > 1  # None: reading it says why
