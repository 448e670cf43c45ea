"""FLARE22, 13 abdominal organs in CT: 50 labelled and 2000 unlabelled training cases, and the tuning cases.

Layout: Training/FLARE22_LabeledCase50/images/FLARE22_Tr_0001_0000.nii.gz and labels/FLARE22_Tr_0001.nii.gz (elsewhere
imagesTr and labelsTr), Training/FLARE22_UnlabeledCase1-1000/Case_00001_0000.nii.gz, Tuning/labels and
Tuning/images/FLARETs_0001_0000.nii.gz: files are found by their names, in whatever folders. What is unlabelled becomes
training cases without label map, also where somebody's pseudo labels lie beside it; Tuning becomes the test set.
Testing is left out, as its names are Tuning's.
Licence: see the data's own page (several sources, for research alone). untried on the real set.
Source: Ma et al. 2023, Unleashing the Strengths of Unlabeled Data in Pan-cancer Abdominal Organ Quantification: the
FLARE22 Challenge.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, folders, reading
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter

from nnkd.data.dataset import Split
from nnkd.errors import FolderError
from nnkd.types import StepReport

ORGANS = (
    *("liver", "right kidney", "spleen", "pancreas", "aorta", "inferior vena cava", "right adrenal gland"),
    *("left adrenal gland", "gallbladder", "esophagus", "stomach", "duodenum", "left kidney"),
)
LABELS = {name: integer for integer, name in enumerate(ORGANS, start=1)}
CHANNEL = "_0000"  # ends an image's name and no label map's
UNLABELLED = r"Case_\d+"
NAMES: tuple[tuple[str, Split], ...] = ((r"FLARE22_Tr_\d+", "Tr"), (UNLABELLED, "Tr"), (r"FLARETs_\d+", "Ts"))


def convert(source: Path, target: Target | str) -> StepReport:
    """Convert FLARE22.

    Args:
        source: The folder with Training, FLARE22Train, or an archive.
        target: Where it goes.

    Raises:
        FolderError: If no image is named as FLARE22's are.
    """
    root = folders.opened(source)
    files = [file for file in sorted(root.rglob("*.nii.gz")) if any(re.match(name, file.name) for name, _ in NAMES)]
    testing = {file for file in files if "testing" in (part.lower() for part in file.relative_to(root).parts[:-1])}
    images = [file for file in files if file not in testing and reading.case_name(file).endswith(CHANNEL)]
    maps = [file for file in files if file not in testing and not reading.case_name(file).endswith(CHANNEL)]
    if not images:
        raise FolderError(
            f"'{source.name}' has no FLARE22_Tr_0001_0000.nii.gz, Case_00001_0000.nii.gz or FLARETs_0001_0000.nii.gz, "
            f"so it is not FLARE22 as published. Give the folder with Training."
        )
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=["CT"],
        labels=LABELS,
        more_json={"reference": "Ma et al. 2023, the FLARE22 Challenge"},
    )
    lines = [f"{len(testing)} files of Testing were left out: their names are those of Tuning."] if testing else []
    parts: list[folders.Part] = []
    for name, split in NAMES:
        own, labels = ([file for file in group if re.match(name, file.name)] for group in (images, maps))
        pseudo = labels if name == UNLABELLED else []
        parts.append((folders.volumes(own, _case), {} if pseudo else folders.volumes(labels, _case), split))
        if pseudo:
            lines.append(
                f"{len(pseudo)} label maps of unlabelled cases were left out: they are nobody's manual labels."
            )
    report = writer.write(*folders.pairs(parts), [root])
    report.lines = lines + report.lines
    return report


def _case(file: Path) -> str:
    return reading.case_name(file).removesuffix(CHANNEL)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return arguments.run(convert, arguments.parser("flare22", __doc__, "FLARE2022 -d 726 -n FLARE"), argv)


if __name__ == "__main__":
    sys.exit(main())
