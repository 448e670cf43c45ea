"""A folder of images: NIfTI (nrrd, mha), DICOM studies (or a zip), or PNG, TIF, BMP, JPG, GIF; masks optional.

One file is one case, and its name becomes the case's; several channels are CASE_0000.nii.gz, CASE_0001.nii.gz ...
DICOM (a folder of any depth, or a zip): one series is one case, numbered; the folder "private" of the dataset says who
is who: do not share it. --channels NAME=PATTERN makes channels of several series of a study. Pictures become png (RGB
stays one file), volumes nii.gz.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments, reading, sources
from nnkd_dataset_conversion.dicom_studies import DicomStudies, Wishes
from nnkd_dataset_conversion.numbering import Numbering
from nnkd_dataset_conversion.reading import Listed
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, Source, SourceCase

from nnkd.data.archives import is_archive, unpack
from nnkd.data.dataset import Split
from nnkd.data.reading.dicom.objects import DICOM_ENDINGS, shown
from nnkd.data.reading.dicom.series import scan
from nnkd.data.reading.formats import read
from nnkd.data.reading.image import VOLUMES, WITHOUT_WORLD, Image, ending_of, images_among
from nnkd.errors import DatasetError, FolderError, SettingError
from nnkd.files import is_visible
from nnkd.types import Failure, FolderCount, StepReport

ANY = "*"


def convert(
    source: Path,
    target: Target | str,
    *,
    labels: Mapping[str, int] | None = None,
    channels: Sequence[str] = (),
    pattern: str = ANY,
    masks: Path | None = None,
    mask_name: str = "{case}",
    values: Mapping[int, str] | None = None,
    threshold: float | None = None,
    test: Path | None = None,
    test_masks: Path | None = None,
    grey: bool = False,
    spacing: Sequence[float] = (),
    series: Sequence[str] = (),
    dicom_modality: str = "",
    suv: bool = False,
    keep_names: bool = False,
    across_frames: bool = False,
) -> StepReport:
    """Convert a folder. DICOM series below it come first; else the first readable image decides whether it is one of
    pictures (RGB or grey) or of volumes.

    Args:
        source: The images: a folder, or an archive, which is unpacked beside itself.
        target: Where it goes.
        labels: Integer by label name; None: the names in `values`, counted from 1.
        channels: Channel names; empty: R, G, B or grey for pictures, DICOM's modality for series. NAME=PATTERN: the
            series of a study that the pattern chooses (UID, number, description) becomes that channel.
        pattern: Which files of the folder are images; anything but "*": no DICOM is looked for.
        masks: Folder of the label maps; it may be `source` itself. Those of DICOM are named as their folder.
        mask_name: A label map's name without its ending.
        values: Label name by value in the label maps; 0 is the background unless named.
        threshold: Values above it are the one label (masks in jpg are lossy).
        test, test_masks: The same for test cases.
        grey: RGB pictures become one channel, the mean of the three.
        spacing: (z, y, x) in mm of tif stacks, which carry none.
        series: UIDs, numbers or description patterns of the DICOM series to take; empty: all.
        dicom_modality: Modality of the DICOM series to take, such as "CT"; empty: the only one.
        suv: PET becomes standardised uptake values.
        keep_names: Cases of DICOM are named as their folders, not numbered.
        across_frames: Channels of different frames of reference are taken to fit.

    Raises:
        FolderError: If a folder is missing or holds no image.
        DatasetError: If pictures and volumes are mixed, or channels or labels are not named.
        SettingError: If options contradict each other.
    """
    wanted = _labels(labels, values, threshold)
    wishes = Wishes(tuple(channels), tuple(series), dicom_modality, suv, keep_names, across_frames)
    folder, test = _unpacked(source), _unpacked(test) if test else None
    form = _form(folder, pattern, grey, tuple(spacing), wishes)
    writer = DatasetWriter(
        target,
        source=Path("DICOM") if form.options.get("numbered") else source,  # a folder's name may be a patient's
        channel_names=form.channels,
        labels=wanted,
        file_ending=form.file_ending,
        relabel=_relabel(wanted, values, threshold),
        options={"values": {str(k): v for k, v in (values or {}).items()}, "threshold": threshold, "grey": grey,
                 "pattern": pattern, "mask_name": mask_name, "spacing": list(spacing), **form.options},
    )  # fmt: skip
    numbering = Numbering(writer.folder)
    named = wanted if not values and threshold is None else None  # else values are the segments' numbers
    listed = form.listed(folder, masks, mask_name, numbering)
    cases, alone = _paired(form, listed, folder, masks, mask_name, "Tr", named)
    if test is not None:
        listed = form.listed(test, test_masks, mask_name, numbering)
        more, more_alone = _paired(form, listed, test, test_masks, mask_name, "Ts", named)
        cases, alone = cases + more, alone + more_alone
    numbering.save()
    report = writer.write(cases, [*form.failures, *alone])
    meant = [source for case in cases for source in (*case.images, case.label)]
    others = [masks, test, test_masks, writer.target.participants, writer.target.cases_table]
    report.folders = form.counts([folder, test, masks, test_masks], meant, others)
    report.lines[:0] = form.lines
    return report


def _unpacked(source: Path) -> Path:
    return unpack(source) if is_archive(source) else source


def _form(folder: Path, pattern: str, grey: bool, spacing: tuple[float, ...], wishes: Wishes) -> _Files | DicomStudies:
    """DICOM where there is any and no pattern asks for files; pictures beside it are set aside."""
    found = scan(folder) if pattern == ANY else None
    files = _known(folder, pattern)
    if found and (found.series or (not files and any(one.series for one in found.aside))):
        return DicomStudies(folder, found, wishes)
    if found and found.broken and not files:
        raise DatasetError(f"'{folder.name}' holds no image, but {len(found.broken)} files that were not understood; "
                           f"the first: '{shown(found.broken[0].file.name)}' {found.broken[0].reason}.")  # fmt: skip
    form = _Files(folder, pattern, grey, spacing, wishes)
    lost = [one for one in found.broken if one.file.suffix.lower() in DICOM_ENDINGS] if found else []
    form.failures = [Failure(shown(one.file.name), f"It {one.reason}.") for one in lost]
    return form


def _paired(
    form: _Files | DicomStudies,
    listed: Sequence[Listed],
    folder: Path,
    masks: Path | None,
    mask_name: str,
    split: Split,
    labels: Mapping[str, int] | None,
) -> tuple[list[SourceCase], list[Failure]]:
    """The cases with their masks, and masks without an image. A DICOM-SEG belongs to the series it refers to."""
    segs = form.segmentations(masks) if isinstance(form, DicomStudies) and masks is not None else {}
    there = _known(masks, ANY) if masks is not None else []
    by_stem: dict[str, list[Path]] = {}
    for path in there:
        by_stem.setdefault(reading.case_name(path), []).append(path)
    found, used = [], set()
    for case in listed:
        stems = {reading.clean(mask_name.replace("{case}", stem)) for stem in case.stems}
        fitting = [p for stem in sorted(stems) for p in by_stem.get(stem, []) if p not in case.images]
        own = list(dict.fromkeys(p for uid in case.stems for p in segs.get(uid, [])))
        fitting += own
        if len(fitting) > 1:
            raise DatasetError(
                f"Case '{case.case}' has {len(fitting)} masks ({', '.join(p.name for p in fitting)}). Keep one."
            )
        used.update(fitting)
        mask = form.mask(fitting[0]) if fitting else None
        if own and isinstance(form, DicomStudies):
            mask = form.segmentation(own[0], case.case, labels)
        found.append(SourceCase(case.case, case.images, mask, split))
    if masks is not None and not used:
        raise DatasetError(f"No mask in '{masks.name}' belongs to an image. Say how they are named with --mask_name.")
    if masks is None or masks.resolve() == folder.resolve():
        return found, []
    there += dict.fromkeys(p for files in segs.values() for p in files)
    return found, [Failure(reading.case_name(p), "It is a mask without image.") for p in there if p not in used]


class _Files:
    """What kind of images a folder's files are, and how a case is made of them."""

    def __init__(self, folder: Path, pattern: str, grey: bool, spacing: tuple[float, ...], wishes: Wishes):
        self.pattern, self.grey, self.spacing = pattern, grey, spacing
        self.options: dict[str, object] = {}
        self.lines: list[str] = []
        self.failures: list[Failure] = []
        if wishes != Wishes(wishes.channels) or wishes.patterns:
            raise SettingError(
                f"'{folder.name}' is converted from its files, not from DICOM. Leave out --series, --dicom_modality, "
                f"NAME=PATTERN, --suv, --keep_names and --across_frames, or --pattern."
            )
        files = _known(folder, pattern)
        if not files:
            raise FolderError(
                f"'{folder.name}' holds no image{'' if pattern == ANY else f' named {pattern}'} and no DICOM series. "
                f"Give another folder or --pattern."
            )
        first = _first_readable(files)
        self.file_ending = ".nii.gz" if _is_volume(files, first) else ".png"
        is_rgb = first.colour and not grey
        default = () if self.file_ending == ".nii.gz" else ("R", "G", "B") if is_rgb else ("grey",)
        self.channels = wishes.channels or default
        is_stack = ending_of(files[0]) in WITHOUT_WORLD and not first.flat
        if is_stack and len(spacing) != 3:
            raise SettingError("A tif stack carries no spacing. Give --spacing Z Y X, in mm.")
        if not self.channels:
            raise DatasetError(
                f"The images in '{folder.name}' do not say their modality. Give --channels CT (or MRI ...)."
            )

    def listed(self, folder: Path, masks: Path | None, mask_name: str, _: Numbering) -> list[Listed]:
        """The folder's cases."""
        files = _known(folder, self.pattern)
        if not files:
            raise FolderError(f"'{folder.name}' holds no image named {self.pattern}. Give another folder or --pattern.")
        names = {path: reading.case_name(path) for path in files}
        if masks is not None and mask_name != "{case}":  # masks may lie among the images
            stems = {reading.clean(mask_name.replace("{case}", name)) for name in names.values()}
            names = {path: name for path, name in names.items() if name not in stems}
        as_nnunet = all(name.endswith("_0000") for name in names.values())  # imagesTr of a dataset that needs mending
        if self.file_ending == ".nii.gz" and (len(self.channels) > 1 or as_nnunet):
            names = {path: re.sub(r"_\d{4}$", "", name) for path, name in names.items()}
        elif len(set(names.values())) < len(names):
            twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
            same = [path.name for path, name in names.items() if name == twice]
            raise DatasetError(
                f"'{folder.name}' holds several images that would be called {twice} ({', '.join(same[:3])}). Rename "
                f"them, or choose those of one kind with --pattern, such as '*{ending_of(Path(same[0]))}'."
            )
        grouped: dict[str, list[Path]] = {}
        for path, name in names.items():
            grouped.setdefault(name, []).append(path)
        several = len(self.channels) > 1 and self.file_ending == ".nii.gz"
        found = []
        for name, paths in grouped.items():
            why = _numbered(name, paths) if several else ""
            images = [partial(_refused, why, paths)] if why else [self._source(path, self.grey) for path in paths]
            found.append(Listed(name, images, (name,)))
        return found

    def counts(
        self, read: Sequence[Path | None], meant: Sequence[Source | None], named: Sequence[Path | None]
    ) -> list[FolderCount]:
        """Which files are taken of the folders of images and masks."""
        there = list(dict.fromkeys(folder for folder in read if folder is not None))
        patterns = [self.pattern if folder in read[:2] else ANY for folder in there]
        return [
            sources.count_own(f, meant, p, [o for o in named if o != f]) for f, p in zip(there, patterns, strict=True)
        ]

    def mask(self, path: Path) -> Source:
        """Where a label map comes from."""
        return self._source(path, False, True)

    def _source(self, path: Path, grey: bool, label_map: bool = False) -> Source:
        """The file itself where it is taken as it is, else a function that reads and changes it."""
        is_stack = ending_of(path) in WITHOUT_WORLD and self.file_ending == ".nii.gz"
        changed = partial(_changed, path, grey, self.spacing if is_stack else (), label_map)
        return changed if grey or is_stack else path


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


def _refused(why: str, _: Sequence[Path]) -> Image:
    raise DatasetError(why)


def _known(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise FolderError(f"There is no folder '{folder.name}'. Give the folder the images lie in.")
    return images_among([p for p in sorted(folder.glob(pattern)) if is_visible(p)])


def _changed(path: Path, grey: bool, spacing: Sequence[float], label_map: bool) -> Image:
    image = read(path, label_map)
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
    parser.add_argument(
        "--channels",
        nargs="+",
        default=(),
        help="channel names (default: R G B, grey, DICOM's); NAME=PATTERN: of which DICOM series (see --series)",
    )
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
    dicom = parser.add_argument_group("DICOM")
    dicom.add_argument("--series", nargs="+", default=(), help="series to take: UID, number, or description with * ?")
    dicom.add_argument("--dicom_modality", default="", help="modality to take: CT, MR, PT ...")
    dicom.add_argument("--suv", action="store_true", help="PET becomes standardised uptake values by body weight")
    dicom.add_argument(
        "--keep_names", action="store_true", help="name cases as their folders instead of numbering them"
    )
    dicom.add_argument(
        "--across_frames", action="store_true", help="channels may have different frames of reference: they fit"
    )
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
