"""AMOS22, 15 abdominal organs in CT and MRI: imagesTr, imagesVa, imagesTs with their labels.

Layout: imagesTr/amos_0001.nii.gz and labelsTr/amos_0001.nii.gz, imagesVa and labelsVa, imagesTs (its labels are not
public), dataset.json. Cases to 500 are CT, from 501 to 600 MRI. What dataset.json spells "arota" is called aorta.
Licence: CC BY 4.0 by its Zenodo page. untried on the real set.
Source: Ji et al. 2022, AMOS: A Large-Scale Abdominal Multi-Organ Benchmark for Versatile Medical Image Segmentation.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, folders
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter

from nnkd.errors import DatasetError
from nnkd.types import StepReport

ORGANS = (
    *("spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "aorta", "postcava"),
    *("pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus"),
)
LABELS = {name: integer for integer, name in enumerate(ORGANS, start=1)}
CHANNEL = {"CT": "CT", "MRI": "MRI", "both": "CT or MRI"}  # only a dataset of nothing but CT is normalised as CT


def convert(source: Path, target: Target | str, *, modality: str = "CT", validation: str = "train") -> StepReport:
    """Convert AMOS22.

    Args:
        source: The folder with imagesTr, or its archive.
        target: Where it goes.
        modality: "CT", "MRI" or "both".
        validation: What imagesVa become: "train" or "test".

    Raises:
        FolderError: If there is no imagesTr.
        DatasetError: If dataset.json numbers the labels otherwise, or a name tells no modality.
    """
    root = folders.find(source, ["imagesTr"], "AMOS22")
    folders.check_labels(root, LABELS)
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=[CHANNEL[modality]],
        labels=LABELS,
        options={"modality": modality, "validation": validation},
        more_json={"reference": "Ji et al. 2022, AMOS"},
    )
    found, alone = folders.cases(root, folders.in_three("Va", validation))
    cases = [case for case in found if modality in ("both", _modality(case.name))]
    alone = [failure for failure in alone if modality in ("both", _modality(failure.case))]
    report = writer.write(cases, alone, [root])
    if len(cases) < len(found):
        report.lines.insert(0, f"{len(found) - len(cases)} cases are no {modality} and were left out (--modality).")
    return report


def _modality(name: str) -> str:
    match = re.fullmatch(r"amos_(\d+)", name)
    number = int(match[1]) if match else 0
    if not 1 <= number <= 600:
        raise DatasetError(f"'{name}' is not one of AMOS22's cases, amos_0001 to amos_0600: CT or MRI? Take it out.")
    return "CT" if number <= 500 else "MRI"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("amos22", __doc__, "amos22 -d 723 -n AMOS --modality CT")
    parser.add_argument("--modality", choices=tuple(CHANNEL), default="CT", help="which cases (default: CT)")
    arguments.add_validation(parser, "imagesVa")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
