"""nnKD_aggregate's step: what teachers voted -> labelsTr and consensus.json, or a prediction folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from nnkd import agreement, consensus, votes
from nnkd.agreement import AGREEMENT, AgreementFile
from nnkd.dataset import DatasetSpec, RawDataset
from nnkd.errors import NnkdError, PredictionError, SettingError
from nnkd.geometry import Grid
from nnkd.interfaces import Aggregator
from nnkd.panel import Panel
from nnkd.predictions import PredictionFolder, portable_options
from nnkd.types import Failure, StepReport

LOG = logging.getLogger("nnkd")


def aggregate(
    dataset: RawDataset,
    aggregator: Aggregator,
    *,
    name: str,
    options: Mapping[str, Any],
    teachers: Sequence[str] = (),
    source: Path | None = None,
    output: Path | None = None,
    review: int = 0,
    overwrite: bool = False,
) -> StepReport:
    """Turn the teachers' votes into one label map a case. Cases that are up to date are skipped.

    Args:
        dataset: Its labels; without `output`, its labelsTr is written, and manual label maps in there stay.
        aggregator: The rule.
        name: The rule's name.
        options: The rule's options, for the manifest.
        teachers: Names of those to take, in bit order; empty: all there are.
        source: Folder of the teachers' prediction folders; None: the dataset's teachersTr.
        output: Prediction folder to write; None: labelsTr.
        review: How many of the cases in which teachers differ most to draw; only without `output`.
        overwrite: Make up-to-date cases again too (manual label maps stay all the same).

    Returns:
        The report; its data hold "agreement" (see `nnkd.agreement.summarise`) and "review" (files).

    Raises:
        SettingError: If the aggregator draws teachers, or the output would vote itself.
        PredictionError: If there are no teachers, or they were made for other labels.
        UnknownNameError: If one of `teachers` does not exist.
        VotesError: If there are too many.
    """
    if aggregator.draws_teacher:
        raise SettingError(
            f"The aggregator '{name}' draws one teacher per training sample, so it stands for no single label map. "
            f"Use it in nnKD_train -a {name}; here take mean or majority."
        )
    source = dataset.teachers_folder() if source is None else source
    panel = Panel.open(source, dataset, teachers)
    if output is None:
        with consensus.writing(dataset, teachers or None):
            target: Target = LabelsTr(dataset, panel)
            return _run(panel, target, aggregator, name, options, review, overwrite)
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise SettingError(
            f"The output '{output.name}' lies among the teachers in '{source.name}', where it would vote itself next "
            f"time. Choose another folder with -o."
        )
    return _run(
        panel, Folder(dataset.spec, panel, output, name, options, overwrite), aggregator, name, options, 0, overwrite
    )


class Target(Protocol):
    """Where label maps go."""

    title: str
    agreement_file: Path

    def cases(self) -> list[str]: ...

    def manual(self) -> list[str]: ...

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool: ...

    def image(self, case: str) -> tuple[Grid, dict[str, Any]] | None: ...

    def write(self, case: str, label_map: np.ndarray, properties: dict[str, Any], answered: list[str]) -> bool: ...

    def fail(self, case: str, reason: str) -> None: ...


class LabelsTr:
    """labelsTr and consensus.json."""

    def __init__(self, dataset: RawDataset, panel: Panel):
        self.dataset, self.panel = dataset, panel
        self.title = f"labelsTr of {dataset.name}"
        self.agreement_file = dataset.teachers_folder() / AGREEMENT
        self._manual = consensus.manual_cases(dataset)
        self._index = consensus.read(dataset)

    def cases(self) -> list[str]:
        return self.dataset.images().cases()

    def manual(self) -> list[str]:
        return self._manual

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool:
        return not consensus.is_stale(self.dataset, case, inputs, self._index)

    def image(self, case: str) -> tuple[Grid, dict[str, Any]]:
        _, grid, properties = self.dataset.images().read(case)
        return grid, properties

    def write(self, case: str, label_map: np.ndarray, properties: dict[str, Any], answered: list[str]) -> bool:
        inputs = self.panel.inputs(case)
        took_part = [t for t in self.panel.names if f"{t}/{case}" in inputs]
        return consensus.write(self.dataset, case, label_map, properties, teachers=took_part, inputs=inputs)

    def fail(self, case: str, reason: str) -> None:
        """An older consensus stays, and `nnkd.consensus.stale_cases` names it."""


class Folder:
    """A prediction folder of kind "aggregation"."""

    def __init__(
        self, spec: DatasetSpec, panel: Panel, output: Path, name: str, options: Mapping[str, Any], overwrite: bool
    ):
        self.spec, self.panel, self.folder = spec, panel, PredictionFolder(output)
        self.title = output.name
        self.agreement_file = output / AGREEMENT
        self.found = self.folder.begin(panel.header(output.name, name, options), overwrite)

    def cases(self) -> list[str]:
        manifests = self.panel.manifests.values()
        return sorted({case for manifest in manifests for case in (*manifest.cases, *manifest.failures)})

    def manual(self) -> list[str]:
        return []

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool:
        return self.folder.is_done(self.found, case, inputs)

    def image(self, case: str) -> None:
        return None

    def write(self, case: str, label_map: np.ndarray, properties: dict[str, Any], answered: list[str]) -> bool:
        inputs = self.panel.inputs(case)
        self.folder.write(self.spec, case, label_map, properties, inputs=inputs, answers=answered)
        return True

    def fail(self, case: str, reason: str) -> None:
        self.folder.fail(case, reason)


def _run(
    panel: Panel,
    target: Target,
    aggregator: Aggregator,
    name: str,
    options: Mapping[str, Any],
    review: int,
    overwrite: bool,
) -> StepReport:
    report = StepReport()
    made_by = {"aggregator": name, "options": portable_options(options), "teachers": panel.names}
    figures = AgreementFile(target.agreement_file, made_by)
    manual, cases = set(target.manual()), target.cases()
    _note_abstentions(panel, [case for case in cases if case not in manual])
    for case in tqdm(cases, desc="aggregate", unit="case"):
        inputs = panel.inputs(case)
        done = not overwrite and target.is_done(case, inputs)
        if case in manual or (done and figures.has(case, inputs)):
            report.skipped.append(case)
            continue
        try:
            label_map, properties, answered = _vote(panel, target, aggregator, case, inputs, figures)
        except NnkdError as error:
            if done:  # only its figures could not be counted
                report.skipped.append(case)
                continue
            target.fail(case, str(error))
            report.failures.append(Failure(case, str(error)))
            continue
        # Outside the try: a full disk ends the command, because every other case would fail alike.
        written = not done and target.write(case, label_map, properties, answered)
        (report.done if written else report.skipped).append(case)
    _summarise(report, panel, target, figures, made_by, manual)
    if review:
        _draw(report, panel, target, figures, review)
    return report


def _vote(
    panel: Panel, target: Target, aggregator: Aggregator, case: str, inputs: Mapping[str, str], figures: AgreementFile
) -> tuple[np.ndarray, dict[str, Any], list[str]]:
    """One case's label map, the properties to write it with, and the labels somebody answered for."""
    answers = panel.answers(case)
    if not answers.any():
        reasons = [f"{t}: {m.failures[case]}" for t, m in panel.manifests.items() if case in m.failures]
        raise PredictionError(
            f"No teacher answered for it{' (' + '; '.join(reasons) + ')' if reasons else ''}. Run "
            f"nnKD_predict_teachers again, draw {case}{panel.spec.file_ending} in labelsTr yourself, or take the image "
            f"out."
        )
    maps, grid, properties = panel.read(case, target.image(case))
    k, labels = len(maps), panel.spec.labels
    counts = [votes.count_patterns(votes.pack_label(maps, integers)[None], k) for integers in labels.values()]
    counts = votes.clear_abstentions(np.concatenate(counts), answers)
    table = votes.fit(aggregator, counts, answers)
    figures.volume_unit = "ml" if grid.in_world else "voxels"
    volume = float(np.prod(grid.spacing)) / 1000 if grid.in_world else 1.0
    figures.add(case, inputs, agreement.figures_of_case(counts, answers, table, panel.names, labels, volume))
    answered = [label for index, label in enumerate(labels) if answers[:, index].any()]
    return votes.apply_to_label_maps(maps, table, panel.spec), properties, answered


def _summarise(
    report: StepReport,
    panel: Panel,
    target: Target,
    figures: AgreementFile,
    made_by: Mapping[str, Any],
    manual: set[str],
) -> None:
    failed = {failure.case for failure in report.failures}
    current = sorted({*report.done, *report.skipped} - manual - failed)
    figures.cases = {case: figures.cases[case] for case in current if case in figures.cases}
    labels = [entry["labels"] for entry in figures.cases.values()]
    summary = agreement.summarise(labels, panel.names, panel.spec.labels) if labels else {}
    figures.save(summary)
    kept = len(manual & set(report.skipped))
    rule = ", ".join(f"{key}={value}" for key, value in made_by["options"].items())
    report.lines += [
        f"{target.title}: {len(report.done)} written, {len(report.skipped) - kept} unchanged"
        + (f", {kept} manual label map(s) kept" if kept else ""),
        f"rule: {made_by['aggregator']}{f' ({rule})' if rule else ''} of {len(panel.names)} teacher(s)"
        + ("; an odd number would leave fewer ties" if len(panel.names) % 2 == 0 else ""),
        *(agreement.lines(summary, figures.volume_unit) if summary else []),
        f"figures of each case: {target.agreement_file.parent.name}/{AGREEMENT}",
    ]
    report.data = {"agreement": summary}


def _draw(report: StepReport, panel: Panel, target: LabelsTr, figures: AgreementFile, number: int) -> None:
    """Overlays of the cases in which teachers differ most, in the dataset's folder review."""
    from nnkd.overlays import draw_overlays

    dataset, folder = target.dataset, target.dataset.folder / "review"
    ranked = sorted(figures.cases, key=lambda case: (-figures.cases[case]["disagreement"], case))
    chosen = [case for case in ranked if figures.cases[case]["disagreement"] > 0][:number]
    names = _names_by_integer(panel.spec)
    for case in set(figures.cases) - set(chosen):  # pictures of an earlier call that would mislead
        (folder / f"{case}.png").unlink(missing_ok=True)
    for case in tqdm(chosen, desc="review", unit="case"):
        volume, orientation, _ = dataset.images().volume(case)
        maps = {"consensus": panel.spec.read_label_map(dataset.label_file(case))[0]}
        for teacher, prediction in panel.folders.items():
            if case in panel.manifests[teacher].cases:
                maps[teacher] = prediction.read(panel.spec, case)
        turned = {title: orientation.to_lps(label_map) for title, label_map in maps.items()}
        draw_overlays(volume.data, turned, folder / f"{case}.png", label_names=names, spacing=volume.spacing)
    files = [folder / f"{case}.png" for case in chosen]
    report.data = {**report.data, "review": files}
    if not files:
        report.lines += ["", "review: the teachers agree in every case, so there is nothing to draw"]
        return
    report.lines += ["", "review: where teachers differ most (1 - mean pairwise DSC)"]
    report.lines += [f"  review/{case}.png  {figures.cases[case]['disagreement']:.3f}" for case in chosen]
    report.lines.append(
        f"To correct one, edit labelsTr/{chosen[0]}{panel.spec.file_ending} and save it in place: from then on "
        f"it counts as manual and is never overwritten."
    )


def _note_abstentions(panel: Panel, cases: Sequence[str]) -> None:
    for teacher, manifest in panel.manifests.items():
        absent = [case for case in cases if case not in manifest.cases]
        if absent:
            some = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
            LOG.info("%s has no output for %d case(s) (%s): it abstains there.", teacher, len(absent), some)


def _names_by_integer(spec: DatasetSpec) -> dict[int, str]:
    if spec.has_regions:
        return dict(zip(spec.json["regions_class_order"], spec.labels, strict=True))
    return {integers[0]: label for label, integers in spec.labels.items()}
