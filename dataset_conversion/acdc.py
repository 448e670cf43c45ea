"""ACDC, the heart in cine MRI at two moments: training/patient001/patient001_frame01.nii.gz, _gt and Info.cfg.

Layout: training and testing, a folder a patient with Info.cfg (ED, ES, Group, Height, NbFrame, Weight), the frames of
end diastole and end systole, each with _gt, and the whole cine (_4d), which is not taken. Both frames are cases of one
participant; group, height [cm], weight [kg] and the BMI from them go to participants.tsv.
Licence: CC BY-NC-SA 4.0 by its page. untried on the real set.
Source: Bernard et al. 2018, Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnkd_dataset_conversion import arguments, folders
from nnkd_dataset_conversion.people import write_people
from nnkd_dataset_conversion.target import Target
from nnkd_dataset_conversion.writer import DatasetWriter

from nnkd.data.dataset import Split
from nnkd.data.participants import LIMITS
from nnkd.errors import DatasetError
from nnkd.types import Failure, StepReport

LABELS = {"RV": 1, "MYO": 2, "LV": 3}  # right ventricle's cavity, left myocardium, left ventricle's cavity
PARTS: tuple[tuple[str, Split], ...] = (("training", "Tr"), ("testing", "Ts"))


def convert(source: Path, target: Target | str) -> StepReport:
    """Convert ACDC.

    Args:
        source: The folder with training and testing, or its archive.
        target: Where it goes.

    Raises:
        FolderError: If there is no training.
    """
    root = folders.find(source, ["training"], "ACDC")
    writer = DatasetWriter(
        target,
        source=source,
        channel_names=["MRI"],
        labels=LABELS,
        more_json={"reference": "Bernard et al. 2018, ACDC"},
    )
    people: dict[str, str] = {}
    facts: dict[str, dict[str, str]] = {}
    failures: list[Failure] = []
    parts: list[folders.Part] = []
    for part, split in PARTS:
        images: dict[str, Path] = {}
        maps: dict[str, Path] = {}
        for folder in sorted(path for path in (root / part).glob("patient*") if path.is_dir()):
            try:
                info = _info(folder)
                frames = [f"{folder.name}_frame{int(info[phase]):02d}" for phase in ("ED", "ES")]
                facts[folder.name] = _facts(info)
            except (DatasetError, KeyError, ValueError):
                failures.append(Failure(folder.name, "Its Info.cfg does not tell ED and ES. Download it again."))
                continue
            there = folders.volumes(folder.glob("*"))
            for frame in frames:
                people[frame] = folder.name
                if frame not in there:
                    failures.append(Failure(frame, "Info.cfg names this frame, but it is missing. Download it again."))
                    continue
                images[frame] = there[frame]
                if f"{frame}_gt" in there:
                    maps[frame] = there[f"{frame}_gt"]
        parts.append((images, maps, split))
    cases, alone = folders.pairs(parts)
    report = writer.write(cases, failures + alone, [root])
    write_people(target, people, facts)
    return report


def _info(folder: Path) -> dict[str, str]:
    """Info.cfg's words by key."""
    try:
        lines = (folder / "Info.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"'{folder.name}' has no readable Info.cfg. Download it again.") from error
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _facts(info: Mapping[str, str]) -> dict[str, str]:
    """Columns of participants.tsv; what is missing or impossible is left empty."""
    height, weight = info.get("Height", ""), info.get("Weight", "")
    try:
        bmi = float(weight) / (float(height) / 100) ** 2
    except (ValueError, ZeroDivisionError):
        bmi = 0.0
    low, high, _ = LIMITS["bmi"]
    told = f"{bmi:.1f}" if low <= bmi <= high else ""
    return {"bmi": told, "group": info.get("Group", ""), "height": height, "weight": weight}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    return arguments.run(convert, arguments.parser("acdc", __doc__, "ACDC/database -d 727 -n ACDC"), argv)


if __name__ == "__main__":
    sys.exit(main())
