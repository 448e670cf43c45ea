"""WMH challenge 2017, white matter hyperintensities in FLAIR and T1: training/SITE/ID/pre and wmh.nii.gz.

Layout: training and test, each with Utrecht/ID, Singapore/ID, Amsterdam/GE3T/ID (test also GE1T5 and Philips), there
pre/FLAIR.nii.gz, pre/T1.nii.gz (corrected for bias, on FLAIR's grid) and wmh.nii.gz with 1 for hyperintensities and 2
for other pathology, which becomes nnU-Net's ignore label unless --other says otherwise. A case is named by site and
number; the site goes to participants.tsv. additional_annotations are not taken.
Licence: see the data's own page (CC BY-NC 4.0 on DataverseNL). untried on the real set.
Source: Kuijf et al. 2019, Standardized Assessment of Automatic Segmentation of White Matter Hyperintensities.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nnkd_dataset_conversion import arguments, folders, reading
from nnkd_dataset_conversion.people import write_people
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter, SourceCase

from nnkd.data.dataset import Split
from nnkd.errors import FolderError
from nnkd.types import Failure, StepReport

CHANNELS = ("FLAIR", "T1")
OTHER = 2  # other pathology
OTHERS: Mapping[str, Mapping[str, int]] = {
    "ignore": {"ignore": OTHER},
    "label": {"other pathology": OTHER},
    "background": {},
}
PARTS: tuple[tuple[str, Split], ...] = (("training", "Tr"), ("test", "Ts"))


def convert(source: Path, target: Target | str, *, other: str = "ignore") -> StepReport:
    """Convert the challenge's data.

    Args:
        source: The folder with training (and test), or its archive.
        target: Where it goes.
        other: What other pathology becomes: "ignore", "label" or "background".

    Raises:
        FolderError: If there is no training, or nothing in it.
    """
    root = folders.find(source, ["training"], "the WMH challenge's data")
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=CHANNELS,
        labels={"WMH": 1, **OTHERS[other]},
        relabel=(lambda array: np.where(array == OTHER, 0, array)) if other == "background" else None,
        options={"other": other},
        more_json={"reference": "Kuijf et al. 2019, the WMH Segmentation Challenge"},
    )
    cases: list[SourceCase] = []
    failures: list[Failure] = []
    sites: dict[str, str] = {}
    for part, split in PARTS:
        labelled = {file.parent for file in (root / part).rglob("wmh.nii.gz")}
        for folder in sorted(labelled | {file.parent.parent for file in (root / part).rglob("pre/*.nii.gz")}):
            path = folder.relative_to(root / part).parts
            name, label = reading.clean("_".join(path)), folder / "wmh.nii.gz"
            images = [folder / "pre" / f"{channel}.nii.gz" for channel in CHANNELS]
            wanted = [*images, label] if labelled or split == "Tr" else images
            missing = [file.name for file in wanted if not file.is_file()]
            if missing:
                failures.append(Failure(name, f"It lacks {', '.join(missing)}. Download it again or take it out."))
                continue
            cases.append(SourceCase(name, images, label if labelled else None, split))
            sites[name] = reading.clean("_".join(path[:-1]))
    if not cases and not failures:
        raise FolderError(f"'{source.name}' has no training/SITE/ID/pre/FLAIR.nii.gz. Give the folder with training.")
    report = writer.write(cases, failures, [root])
    write_people(target, {name: name for name in sites}, {name: {"site": site} for name, site in sites.items()})
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = arguments.parser("wmh", __doc__, "dataverse_files -d 728 -n WMH")
    parser.add_argument("--other", choices=tuple(OTHERS), default="ignore", help="other pathology (default: ignore)")
    return arguments.run(convert, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
