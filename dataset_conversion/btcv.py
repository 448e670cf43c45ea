"""BTCV (Beyond the Cranial Vault), 13 abdominal organs in CT: Abdomen/RawData with Training and Testing.

Layout: RawData/Training/img/img0001.nii.gz and RawData/Training/label/label0001.nii.gz, RawData/Testing/img (labels are
not public).
Licence: see the data's own page (Synapse syn3193805). untried on the real set.
Source: Landman et al. 2015, MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, workshop and challenge.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, folders, reading
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter

from nnkd.types import StepReport

ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"),
)
LABELS = {name: integer for integer, name in enumerate(ORGANS, start=1)}


def convert(source: Path, target: Target | str) -> StepReport:
    """Convert BTCV's abdomen.

    Args:
        source: Abdomen, RawData, or its archive.
        target: Where it goes.

    Raises:
        FolderError: If there is no Training/img.
    """
    root = folders.find(source, ["Training/img"], "BTCV's abdomen")
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=["CT"],
        labels=LABELS,
        more_json={"reference": "Landman et al. 2015, Multi-Atlas Labeling Beyond the Cranial Vault"},
    )
    places: list[folders.Place] = [("Training/img", "Training/label", "Tr"), ("Testing/img", "Testing/label", "Ts")]
    return writer.write(*folders.cases(root, places, _case), [root])


def _case(file: Path) -> str:
    """label0001.nii.gz belongs to img0001.nii.gz."""
    name = reading.case_name(file)
    return f"img{name.removeprefix('label')}" if name.startswith("label") else name


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return arguments.run(convert, arguments.parser("btcv", __doc__, "Abdomen/RawData -d 725 -n BTCV"), argv)


if __name__ == "__main__":
    sys.exit(main())
