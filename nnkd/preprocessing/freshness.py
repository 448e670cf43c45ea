"""Whether preprocessed cases and votes still are of the dataset and plans that a training names: asked before hours are
spent, of as much as is at hand (a cluster often has no raw folder)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnkd.data.dataset import DatasetSpec, RawDataset
from nnkd.data.origins import Hashes, difference
from nnkd.data.plans import KEY, configuration_of, read_plans
from nnkd.data.predictions import Manifest, PredictionFolder
from nnkd.errors import DatasetError, RecipeError, VotesError
from nnkd.preprocessing import adoption, case_origins
from nnkd.preprocessing.case_origins import LABEL_MAP, LABEL_MEANING, SETTINGS
from nnkd.preprocessing.folders import Origins, is_preprocessed, read_inputs
from nnkd.votes.folder import VotesFolder

log = logging.getLogger("nnkd")
USUAL_PLANS = "nnUNetPlans"
LOOKED_AT = 3  # of the oldest and of the newest cases, where nothing is on record: those added later are the newest


def raw_dataset(name: str) -> RawDataset | None:
    """The raw dataset; None where it is not at hand."""
    raw = os.environ.get("nnUNet_raw")
    folder = Path(raw) / name if raw else None
    return RawDataset(folder) if folder is not None and (folder / "dataset.json").is_file() else None


def check(
    folder: Path,
    plans: Mapping[str, Any],
    configuration: str,
    cases: Sequence[str],
    spec: DatasetSpec,
    votes: VotesFolder | None = None,
) -> None:
    """Whether preprocessed cases are what dataset.json and plans would make now, and votes what the teachers say.

    Args:
        folder: nnUNet_preprocessed/DATASET.
        plans: Those to train with.
        configuration: Its name.
        cases: Those that are there.
        spec: dataset.json in that folder.
        votes: Of the configuration; None: nobody learns from votes.

    Raises:
        RecipeError: If a case is not, with the command to run.
        VotesError: If votes are not.
    """
    raw = raw_dataset(folder.name)
    values = configuration_of(plans, configuration, folder)
    todo = f"Run {command(folder, plans, configuration)}."
    if raw is not None:
        why = difference(case_origins.of_dataset(spec), case_origins.of_dataset(raw.spec))
        if why:
            raise RecipeError(f"dataset.json of {folder.name} changed since it was preprocessed ({why}). {todo}")
        left_out = _image_cases(raw) - set(cases)
        if left_out:
            log.warning("%d case(s) in imagesTr of %s (such as %s) are not preprocessed, so nobody trains on them.",
                        len(left_out), raw.name, min(left_out))  # fmt: skip
    there, now = folder / values["data_identifier"], case_origins.of_plans(plans, values, spec)
    record = read_inputs(there)
    if not record or (raw is None and all(isinstance(made, str) for made in record.values())):
        _check_content(there, cases, plans, values, spec, todo)
        changed = {}
    else:
        files = {} if raw is None else files_of(raw, cases)
        reasons = {case: _why(record.get(case), now, files.get(case)) for case in cases}
        changed = {case: why for case, why in reasons.items() if why}
    if not changed:
        if votes is not None:
            _check_votes(votes, spec, raw, now, record, todo)
        return
    _check_recipe(folder, plans, configuration, now, spec)
    case, why = next(iter(changed.items()))
    raise RecipeError(
        f"{len(changed)} of {len(cases)} preprocessed case(s) of {folder.name} for {configuration} cannot be "
        f"trained on as they are (such as {case}: {why}). {todo}"
    )


def _why(made: Origins | str | None, now: Origins, files: Origins | None) -> str:
    """Why a case does not hold; the files count where they are at hand."""
    if isinstance(made, str):
        return "an earlier version of nnkd made it, and that command verifies it once"
    if made is not None and files is None:
        files = only_files(made)
    return difference(made, {**now, **(files or {})})


def only_files(made: Origins) -> Origins:
    """A case's origins that are files."""
    return {key: digest for key, digest in made.items() if key == LABEL_MAP or key.startswith("image ")}


def files_of(raw: RawDataset, cases: Sequence[str]) -> dict[str, Origins]:
    """Origins that are files, of the cases whose images are there; others may have been put away."""
    images, hashes, there = raw.images(), Hashes(raw.folder), _image_cases(raw)
    found = {
        case: case_origins.of_files(images.files(case), raw.label_file(case), hashes) for case in cases if case in there
    }
    hashes.save()
    return found


def _image_cases(raw: RawDataset) -> set[str]:
    try:
        return set(raw.images().cases())
    except DatasetError:  # put away, to save space
        return set()


def command(folder: Path, plans: Mapping[str, Any], configuration: str, *more: str) -> str:
    """What brings the cases of a configuration up to date.

    Args:
        folder, plans, configuration: See `check`.
        more: Further arguments.
    """
    base = plans.get(KEY, {}).get("base", plans["plans_name"])
    which = () if base == USUAL_PLANS else ("-plans_name", base)
    return " ".join(("nnKD_plan_and_preprocess -d", folder.name, "-c", configuration, *which, *more))


def _check_recipe(folder: Path, plans: Mapping[str, Any], configuration: str, now: Origins, spec: DatasetSpec) -> None:
    """A recipe is a copy of its base plans, which may have been made anew since."""
    if KEY not in plans:
        return
    name = plans[KEY]["base"]
    base = read_plans(folder, name)
    why = difference(now, case_origins.of_plans(base, configuration_of(base, configuration, folder), spec))
    if why:
        raise RecipeError(
            f"The plans '{name}' were made anew since the recipe '{plans['plans_name']}' was written ({why}), and the "
            f"cases with them. Write it again: nnKD_train with its flags, -p {name} and another name (-n)."
        )


def _check_content(
    there: Path,
    cases: Sequence[str],
    plans: Mapping[str, Any],
    values: Mapping[str, Any],
    spec: DatasetSpec,
    todo: str,
) -> None:
    """nnU-Net's own command leaves no record, and without raw files that of an earlier version says nothing."""
    whole = sorted(
        (case for case in cases if is_preprocessed(there, case)), key=lambda c: (there / f"{c}.b2nd").stat().st_mtime
    )
    for case in dict.fromkeys((*whole[:LOOKED_AT], *whole[-LOOKED_AT:])):
        if not adoption.labels_fit(there, case, spec):
            why = "other labels"
        elif adoption.statistics_fit(there, case, plans, values) is False:
            why = "other intensity statistics"
        else:
            continue
        raise RecipeError(f"'{case}' in {there.parent.name}/{there.name} was preprocessed with {why}. {todo}")


def _check_votes(
    votes: VotesFolder,
    spec: DatasetSpec,
    raw: RawDataset | None,
    now: Origins,
    record: Mapping[str, Origins | str],
    todo: str,
) -> None:
    if votes.index.labels != list(spec.labels):
        raise VotesError(
            f"The votes in {votes.folder.name} are about {', '.join(votes.index.labels)}, but dataset.json of "
            f"{spec.name} names {', '.join(spec.labels)}. {todo}"
        )
    teachers = {} if raw is None else _teachers(raw, votes.index.teachers)
    hashes = Hashes(votes.folder if raw is None else raw.folder)
    for case, made in votes.index.cases.items():
        of_case = record.get(case)
        if not made.origins or not isinstance(of_case, dict):  # of an earlier version
            continue
        wanted = {key: now[key] for key in (LABEL_MEANING, SETTINGS)}
        wanted |= {key: digest for key, digest in of_case.items() if key.startswith("image ")}
        said = {
            name: (teacher.file(case, manifest.file_ending), manifest)
            for name, (teacher, manifest) in teachers.items()
            if case in manifest.cases
        }
        if len(teachers) == len(votes.index.teachers):
            wanted = case_origins.of_votes({**of_case, **wanted}, case, said, hashes)
            why = difference(made.origins, wanted)
        else:
            why = difference({key: digest for key, digest in made.origins.items() if key in wanted}, wanted)
        if why:
            raise VotesError(f"The votes of case '{case}' in {votes.folder.name} do not hold any more ({why}). {todo}")
    hashes.save()


def _teachers(raw: RawDataset, names: Sequence[str]) -> dict[str, tuple[PredictionFolder, Manifest]]:
    """Those that are at hand."""
    folders = [PredictionFolder(raw.teachers_folder() / name) for name in names]
    return {folder.name: (folder, folder.manifest()) for folder in folders if folder.exists()}
