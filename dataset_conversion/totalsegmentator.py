"""TotalSegmentator's data sets, CT (v1 and v2) and MR: CASE/ct.nii.gz or mri.nii.gz, and CASE/segmentations.

Layout: s0000/ct.nii.gz (MR: s0000/mri.nii.gz), s0000/segmentations/LABEL.nii.gz, meta.csv (image_id, age, gender,
institute, split). Every mask becomes a label, by alphabet from 1, unless --labels chooses or joins some. Test cases by
meta.csv go to the test set; sex, age and institute go to participants.tsv. CT and MR are two datasets.
Licence: CC BY 4.0 for CT; for MR see the data's own page. untried on the real sets.
Source: Wasserthal et al. 2023, TotalSegmentator; Akinci D'Antonoli et al. 2025, TotalSegmentator MRI.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, folders, one_file_per_label
from nnkd_dataset_conversion.target import Target

from nnkd.errors import DatasetError, FolderError
from nnkd.types import StepReport

IMAGES = {"CT": "ct.nii.gz", "MRI": "mri.nii.gz"}
# A mask that one version of CT alone has (v2 moved the heart's chambers out), and how many the version has
VERSIONS = {"v1": ("heart_myocardium", 104), "v2": ("atrial_appendage_left", 117)}


def convert(
    source: Path,
    target: Target | str,
    *,
    modality: str = "",
    labels: Sequence[str] = (),
    ignore_split: bool = False,
) -> StepReport:
    """Convert the folder with one folder a case.

    Args:
        source: The folder, or its archive.
        target: Where it goes.
        modality: "CT" or "MRI"; empty: what is there.
        labels: NAME, or NAME=MASK+MASK to join; empty: every mask.
        ignore_split: Test cases by meta.csv become training cases too.

    Raises:
        FolderError: If there is no case.
        DatasetError: If modalities or versions are mixed.
    """
    root = folders.opened(source)
    there = [name for name, file in IMAGES.items() if modality in ("", name) and any(root.glob(f"*/{file}"))]
    if not there:
        wanted = " and no ".join(f"CASE/{file}" for name, file in IMAGES.items() if modality in ("", name))
        raise FolderError(f"'{source.name}' has no {wanted}. Give the folder with one folder a case (s0000 ...).")
    if len(there) > 1:
        raise DatasetError(f"'{source.name}' holds CT and MR images. Say which by --modality CT or --modality MRI.")
    masks = {mask for case in root.glob(f"*/{IMAGES[there[0]]}") for mask in folders.volumes(_masks(case))}
    versions = [version for version, (mask, _) in VERSIONS.items() if mask in masks and there == ["CT"]]
    if len(versions) > 1:
        raise DatasetError(f"'{source.name}' holds masks of v1 and of v2, which are other labels. Convert them apart.")
    report = one_file_per_label.convert(
        root, target, labels=labels, channels=there, images=[IMAGES[there[0]]], ignore_split=ignore_split
    )
    known = f"{versions[0]}, {len(masks)} of {VERSIONS[versions[0]][1]} masks" if versions else f"{len(masks)} masks"
    report.lines.insert(0, f"Recognised TotalSegmentator {there[0]}: {known}.")
    return report


def _masks(image: Path) -> list[Path]:
    return list((image.parent / "segmentations").glob("*"))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser(
        "totalsegmentator", __doc__, "Totalsegmentator_dataset_v201 -d 722 -n Organs --labels liver spleen"
    )
    parser.add_argument("--modality", choices=tuple(IMAGES), default="", help="which, where both are there")
    parser.add_argument("--labels", nargs="+", default=(), help="NAME or NAME=MASK+MASK (default: all masks)")
    parser.add_argument("--ignore_split", action="store_true", help="test cases of meta.csv become training cases too")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
