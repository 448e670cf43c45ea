"""A plain folder of images: NIfTI (nrrd, mha), DICOM series, or PNG, TIF, BMP, JPG, GIF; masks optional.

One file is one case, and its name becomes the case's; several channels are CASE_0000.nii.gz, CASE_0001.nii.gz ...
DICOM: one series is one case, named after its folder. Pictures become png (RGB stays one file), volumes nii.gz.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnkd_dataset_conversion import arguments, reading
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, Source, SourceCase

from nnkd.data.dataset import Split
from nnkd.data.reading.formats import read
from nnkd.data.reading.image import TIFFS, VOLUMES, Image, ending_of, images_among
from nnkd.errors import DatasetError, FolderError, SettingError
from nnkd.files import is_visible
from nnkd.types import Failure, StepReport

MODALITIES = {"MR": "MRI", "PT": "PET"}  # DICOM's codes where nnU-Net's users write something else


def convert(
    source: Path,
    target: Target | str,
    *,
    labels: Mapping[str, int] | None = None,
    channels: Sequence[str] = (),
    pattern: str = "*",
    masks: Path | None = None,
    mask_name: str = "{case}",
    values: Mapping[int, str] | None = None,
    threshold: float | None = None,
    test: Path | None = None,
    test_masks: Path | None = None,
    grey: bool = False,
    spacing: Sequence[float] = (),
) -> StepReport:
    """Convert a folder. The first readable image decides whether it is one of pictures (RGB or grey) or of volumes.

    Args:
        source: The images.
        target: Where it goes.
        labels: Integer by label name; None: the names in `values`, counted from 1.
        channels: Channel names; empty: R, G, B or grey for pictures, DICOM's modality for series.
        pattern: Which files of the folder are images.
        masks: Folder of the label maps; it may be `source` itself.
        mask_name: A label map's name without its ending.
        values: Label name by value in the label maps; 0 is the background unless named.
        threshold: Values above it are the one label (masks in jpg are lossy).
        test, test_masks: The same for test cases.
        grey: RGB pictures become one channel, the mean of the three.
        spacing: (z, y, x) in mm of tif stacks, which carry none.

    Raises:
        FolderError: If a folder is missing or holds no image.
        DatasetError: If pictures and volumes are mixed, or channels or labels are not named.
        SettingError: If options contradict each other.
    """
    wanted = _labels(labels, values, threshold)
    form = _Form(source, pattern, tuple(channels), grey, tuple(spacing))
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=form.channels,
        labels=wanted,
        file_ending=form.file_ending,
        relabel=_relabel(wanted, values, threshold),
        options={"values": {str(k): v for k, v in (values or {}).items()}, "threshold": threshold, "grey": grey,
                 "pattern": pattern, "mask_name": mask_name, "spacing": list(spacing)},
    )  # fmt: skip
    cases, alone = form.cases(source, masks, mask_name, "Tr")
    if test is not None:
        more, more_alone = form.cases(test, test_masks, mask_name, "Ts")
        cases, alone = cases + more, alone + more_alone
    return writer.write(cases, alone)


class _Form:
    """What kind of images a folder holds, and how a case is made of them."""

    def __init__(self, folder: Path, pattern: str, channels: tuple[str, ...], grey: bool, spacing: tuple[float, ...]):
        self.pattern, self.grey, self.spacing = pattern, grey, spacing
        files = self._files(folder)
        self.is_dicom = not files
        first: Image | None = None
        if self.is_dicom:
            self.file_ending, default = ".nii.gz", _modality(_series(folder))
        else:
            first = _first_readable(files)
            self.file_ending = ".nii.gz" if _is_volume(files, first) else ".png"
            is_rgb = first.colour and not grey
            default = () if self.file_ending == ".nii.gz" else ("R", "G", "B") if is_rgb else ("grey",)
        self.channels = channels or default
        if not self.channels:
            raise DatasetError(
                f"The images in '{folder.name}' do not say their modality. Give --channels CT (or MRI ...)."
            )
        is_stack = first is not None and ending_of(files[0]) in TIFFS and not first.flat
        if is_stack and len(spacing) != 3:
            raise SettingError("A tif stack carries no spacing. Give --spacing Z Y X, in mm.")

    def cases(
        self, folder: Path, masks: Path | None, mask_name: str, split: Split
    ) -> tuple[list[SourceCase], list[Failure]]:
        """The folder's cases, and its masks without an image."""
        there = self._files(masks, "*") if masks is not None else []
        by_stem: dict[str, list[Path]] = {}
        for path in there:
            by_stem.setdefault(reading.case_name(path), []).append(path)
        found, used = [], set()
        for name, images in self._images(folder, mask_name if masks else "").items():
            stem = reading.clean(mask_name.replace("{case}", name))
            fitting = [p for p in by_stem.get(stem, []) if p not in images]
            if len(fitting) > 1:
                raise DatasetError(
                    f"Case '{name}' has {len(fitting)} masks ({', '.join(p.name for p in fitting)}). Keep one."
                )
            used.update(fitting)
            found.append(SourceCase(name, images, self._read(fitting[0], False) if fitting else None, split))
        if masks is not None and not used:
            raise DatasetError(
                f"No mask in '{masks.name}' belongs to an image. Say how they are named with --mask_name."
            )
        if masks is None or masks.resolve() == folder.resolve():
            return found, []
        return found, [Failure(reading.case_name(p), "It is a mask without image.") for p in there if p not in used]

    def _images(self, folder: Path, mask_name: str) -> dict[str, list[Source]]:
        if self.is_dicom:
            return {name: [partial(reading.read_series, files)] for name, files in _series(folder).items()}
        files = self._files(folder)
        if not files:
            raise FolderError(f"'{folder.name}' holds no image named {self.pattern}. Give another folder or --pattern.")
        names = {path: reading.case_name(path) for path in files}
        if mask_name not in ("", "{case}"):  # masks may lie among the images
            masks = {reading.clean(mask_name.replace("{case}", name)) for name in names.values()}
            names = {path: name for path, name in names.items() if name not in masks}
        as_nnunet = all(name.endswith("_0000") for name in names.values())  # imagesTr of a dataset that needs mending
        if self.file_ending == ".nii.gz" and (len(self.channels) > 1 or as_nnunet):
            names = {path: re.sub(r"_\d{4}$", "", name) for path, name in names.items()}
        elif len(set(names.values())) < len(names):
            twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
            raise DatasetError(
                f"'{folder.name}' holds several images called {twice}. Choose some with --pattern '*.png'."
            )
        grouped: dict[str, list[Path]] = {}
        for path, name in names.items():
            grouped.setdefault(name, []).append(path)
        found: dict[str, list[Source]] = {}
        for name, paths in grouped.items():
            several = len(self.channels) > 1 and self.file_ending == ".nii.gz"
            why = _numbered(name, paths) if several else ""
            found[name] = [partial(_refused, why)] if why else [self._read(path, self.grey) for path in paths]
        return found

    def _read(self, path: Path, grey: bool) -> Source:
        """The file itself where it is taken as it is, else a function that reads and changes it."""
        is_stack = ending_of(path) in TIFFS and self.file_ending == ".nii.gz"
        return partial(_changed, path, grey, self.spacing if is_stack else ()) if grey or is_stack else path

    def _files(self, folder: Path, pattern: str = "") -> list[Path]:
        if not folder.is_dir():
            raise FolderError(f"There is no folder '{folder.name}'. Give the folder the images lie in.")
        return images_among([p for p in sorted(folder.glob(pattern or self.pattern)) if is_visible(p)])


def _numbered(name: str, files: Sequence[Path]) -> str:
    """What is wrong with the files of one case's channels, which are numbered from _0000 on; empty: nothing."""
    numbers = [reading.case_name(file)[-4:] for file in files if re.search(r"_\d{4}$", reading.case_name(file))]
    if len(numbers) == len(files) and numbers == [f"{k:04d}" for k in range(len(files))]:
        return ""
    if not numbers and len(files) == 1:
        return ""  # all channels in one file
    there = ", ".join(file.name for file in files)
    return (
        f"The channels of '{name}' are not numbered _0000, _0001 ... once each: there are {there}. Correct the names."
    )


def _refused(why: str) -> Image:
    raise DatasetError(why)


def _changed(path: Path, grey: bool, spacing: Sequence[float]) -> Image:
    image = read(path)
    if grey and image.colour:
        mean = np.rint(image.array.mean(0, keepdims=True)).astype(image.array.dtype)
        image = replace(image, array=mean, colour=False)
    if spacing and not image.flat:
        z, y, x = (float(s) for s in spacing)
        image = replace(image, grid=replace(image.grid, spacing=(z, y, x), in_world=True))
    return image


def _first_readable(files: Sequence[Path]) -> Image:
    reasons = []
    for path in files:
        try:
            return read(path)
        except DatasetError as error:
            reasons.append(str(error))
    raise DatasetError(f"None of {len(files)} images can be read; the first: {reasons[0]}")


def _is_volume(files: Sequence[Path], first: Image) -> bool:
    volumes = [p for p in files if ending_of(p) in VOLUMES]
    if volumes and len(volumes) < len(files):
        raise DatasetError(
            f"'{files[0].parent.name}' holds volumes ({volumes[0].name}) and pictures. Choose by --pattern '*.nii.gz'."
        )
    return bool(volumes) or not first.flat


def _series(folder: Path) -> dict[str, tuple[str, ...]]:
    """Files of each DICOM series, by case, in the order of their slices."""
    found: dict[str, tuple[str, ...]] = {}
    for place in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir())):
        if not any(is_visible(p) for p in place.iterdir()):
            continue
        name = reading.clean("_".join(place.relative_to(folder).parts) or folder.name)
        uids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(place))
        for uid in uids:
            # Digits of a hash, not a count: a series that is added later must not rename the others
            case = name if len(uids) == 1 else f"{name}_{hashlib.sha256(uid.encode()).hexdigest()[:8]}"
            found[case] = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place), uid)
    if not found:
        raise FolderError(f"'{folder.name}' holds no image and no DICOM series. Give another folder or --pattern.")
    return found


def _modality(series: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    codes = set()
    for files in series.values():
        reader = sitk.ImageFileReader()
        reader.SetFileName(files[0])
        reader.ReadImageInformation()
        codes.add(reader.GetMetaData("0008|0060").strip() if reader.HasMetaDataKey("0008|0060") else "")
    if len(codes) > 1:
        raise DatasetError(f"The series are of several modalities ({', '.join(sorted(codes))}). Convert them apart.")
    code = codes.pop()
    return (MODALITIES.get(code, code),) if code else ()


def _labels(
    labels: Mapping[str, int] | None, values: Mapping[int, str] | None, threshold: float | None
) -> dict[str, int]:
    names = [name for name in dict.fromkeys((values or {}).values()) if name != "background"]
    found = dict(labels or {name: k for k, name in enumerate(names, start=1)})
    if not found:
        raise SettingError("No label is named. Give --labels NAME ... (also where there are no masks yet).")
    unknown = [name for name in names if name not in found]
    if unknown:
        raise SettingError(f"--values names {unknown[0]}, but --labels only {', '.join(found)}. Add it there.")
    if threshold is not None and (values or len(found) != 1):
        raise SettingError("--threshold makes one label of a mask: name one label, and give no --values.")
    return found


def _relabel(
    labels: Mapping[str, int], values: Mapping[int, str] | None, threshold: float | None
) -> Callable[[np.ndarray], np.ndarray] | None:
    if threshold is not None:
        integer = next(iter(labels.values()))
        return lambda array: np.where(array > threshold, integer, 0)
    if not values:
        return None
    known = {0: 0, **{value: {**labels, "background": 0}[name] for value, name in values.items()}}

    def relabel(array: np.ndarray) -> np.ndarray:
        there, where = np.unique(array, return_inverse=True)
        strange = [int(v) for v in there if int(v) not in known]
        if strange:
            raise DatasetError(
                f"The mask holds the value{'s' if len(strange) > 1 else ''} {', '.join(map(str, strange[:8]))}, but "
                f"--values names {', '.join(map(str, sorted(known)))}. Name them, or cut lossy masks with --threshold."
            )
        return np.array([known[int(v)] for v in there])[where].reshape(array.shape)

    return relabel


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("images_folder", __doc__, "photos -d 710 -n Cells --masks masks --values 255=nucleus")
    parser.add_argument("--labels", nargs="+", action=arguments.Labels, help="NAME or NAME=INTEGER")
    parser.add_argument("--channels", nargs="+", default=(), help="channel names (default: R G B, grey, DICOM's)")
    parser.add_argument("--pattern", default="*", help="which files are images (default: all known kinds)")
    parser.add_argument("--masks", type=Path, help="folder of the label maps; it may be the images' folder")
    parser.add_argument("--mask_name", default="{case}", help="their names without ending (default: {case})")
    parser.add_argument(
        "--values", nargs="+", action=arguments.Values, help="what values mean: 128=cytoplasm 255=nucleus"
    )
    parser.add_argument("--threshold", type=float, help="values above it are the one label")
    parser.add_argument("--test", type=Path, help="folder of the test images")
    parser.add_argument("--test_masks", type=Path, help="folder of their label maps")
    parser.add_argument("--grey", action="store_true", help="make one channel of RGB: the mean")
    parser.add_argument("--spacing", nargs=3, type=float, default=(), help="Z Y X of tif stacks, in mm")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
