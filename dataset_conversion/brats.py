"""BraTS, brain tumours: one folder a case with t1, t1ce (t1c), t2, flair and seg, in the old or the new naming.

Labels become nnU-Net's regions: whole tumor, tumor core, enhancing tumor (4, or 3 in the new naming, becomes 3).
Source: Baid et al. 2021, The RSNA-ASNR-MICCAI BraTS 2021 benchmark.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, Relabel, SourceCase

from nnkd.data.dataset import Split
from nnkd.errors import FolderError
from nnkd.files import is_visible
from nnkd.types import Failure, StepReport

CHANNELS = ("T1", "T1ce", "T2", "Flair")
# BraTS 2012-2021: CASE_t1ce.nii.gz; BraTS 2023 on: CASE-t1c.nii.gz
SUFFIXES = (("t1", "t1n"), ("t1ce", "t1c", "t1gd"), ("t2", "t2w"), ("flair", "t2f"))
REGIONS = {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}
# Ours: 1 oedema, 2 necrosis, 3 enhancing, 4 resection cavity, so that regions_class_order paints the smaller later
OLD = {0: 0, 1: 2, 2: 1, 4: 3}
NEW = {0: 0, 1: 2, 2: 1, 3: 3, 4: 4}


def convert(
    source: Path, target: Target | str, *, test: Path | None = None, old_labels: bool = True, cavity: bool = False
) -> StepReport:
    """Convert case folders, at any depth.

    Args:
        source: Training cases; those without seg stay unlabelled.
        target: Where it goes.
        test: Test cases.
        old_labels: The enhancing tumour is 4 (until BraTS 2021), else 3 (since 2023).
        cavity: BraTS 2024 (after treatment): label 4 is the resection cavity, a region of its own.

    Raises:
        FolderError: If a folder is missing.
    """
    labels = {**REGIONS, **({"resection cavity": [4]} if cavity else {})}
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=CHANNELS,
        labels=labels,
        relabel=_relabel(OLD if old_labels else NEW),
        options={"old_labels": old_labels, "cavity": cavity},
        more_json={"regions_class_order": [1, 2, 3, 4][: len(labels)]},
    )
    cases: list[SourceCase] = []
    failures: list[Failure] = []
    folders: dict[Split, Path | None] = {"Tr": source, "Ts": test}
    for split, folder in folders.items():
        if folder is None:
            continue
        if not folder.is_dir():
            raise FolderError(f"There is no folder '{folder.name}'. Give the folder with one folder a case.")
        for name, files in _case_folders(folder).items():
            missing = [channel for channel, file in zip(CHANNELS, files[:4], strict=True) if file is None]
            if missing:
                failures.append(Failure(name, f"It lacks {', '.join(missing)}. Download it again or take it out."))
            else:
                cases.append(SourceCase(name, [f for f in files[:4] if f], files[4], split))
    return writer.write(cases, failures)


def _relabel(values: dict[int, int]) -> Relabel:
    table = np.full(256, 255)  # 255: refused by the writer, with the case's name
    table[list(values)] = list(values.values())
    return lambda array: np.where((array >= 0) & (array < 256), table[np.clip(array, 0, 255)], 255)


def _case_folders(root: Path) -> dict[str, list[Path | None]]:
    """Files t1, t1ce, t2, flair, seg of each folder that has one of the images."""
    found: dict[str, list[Path | None]] = {}
    for folder in sorted({p.parent for p in root.rglob("*.nii*") if is_visible(p)}):
        files = [p for p in sorted(folder.iterdir()) if is_visible(p) and ".nii" in p.name]
        images = [next((p for p in files if _suffix(p) in names), None) for names in SUFFIXES]
        # BraTS20_Training_355 calls its label map W39_1998.09.19_Segm.nii
        label = next((p for p in files if _suffix(p) in ("seg", "segm")), None)
        if any(images):
            found[folder.name] = [*images, label]
    return found


def _suffix(path: Path) -> str:
    return re.split(r"[_-]", path.name.split(".nii")[0])[-1].lower()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("brats", __doc__, "BraTS2021_Training_Data -d 721 -n BraTS --old_labels")
    parser.add_argument("--test", type=Path, help="folder of the test cases")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--old_labels", action="store_true", help="enhancing tumour is 4 (until BraTS 2021)")
    kind.add_argument("--new_labels", dest="old_labels", action="store_false", help="it is 3 (since BraTS 2023)")
    parser.add_argument("--cavity", action="store_true", help="BraTS 2024: 4 is the resection cavity, a region too")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
