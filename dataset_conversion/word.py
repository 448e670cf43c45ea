"""WORD, 16 abdominal organs in CT: imagesTr, imagesVal, imagesTs with their labels.

Layout: WORD-V0.1.0/imagesTr/word_0002.nii.gz and labelsTr/word_0002.nii.gz, imagesVal and labelsVal, imagesTs and
labelsTs, dataset.json. Both adrenal glands are one label.
Licence: for academic research alone by its page; see there. untried on the real set.
Source: Luo et al. 2022, WORD: A large scale dataset for abdominal organ segmentation from CT image.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, folders
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter

from nnkd.types import StepReport

ORGANS = (
    *("liver", "spleen", "left_kidney", "right_kidney", "stomach", "gallbladder", "esophagus", "pancreas", "duodenum"),
    *("colon", "intestine", "adrenal", "rectum", "bladder", "Head_of_femur_L", "Head_of_femur_R"),
)
LABELS = {name: integer for integer, name in enumerate(ORGANS, start=1)}


def convert(source: Path, target: Target | str, *, validation: str = "train") -> StepReport:
    """Convert WORD.

    Args:
        source: The folder with imagesTr, or its archive.
        target: Where it goes.
        validation: What imagesVal become: "train" or "test".

    Raises:
        FolderError: If there is no imagesTr.
        DatasetError: If dataset.json numbers the labels otherwise.
    """
    root = folders.find(source, ["imagesTr"], "WORD")
    folders.check_labels(root, LABELS)
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=["CT"],
        labels=LABELS,
        options={"validation": validation},
        more_json={"reference": "Luo et al. 2022, WORD"},
    )
    return writer.write(*folders.cases(root, folders.in_three("Val", validation)), [root])


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("word", __doc__, "WORD-V0.1.0 -d 724 -n WORD --validation test")
    arguments.add_validation(parser, "imagesVal")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
