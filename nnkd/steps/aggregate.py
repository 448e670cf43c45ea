"""nnKD_aggregate's step: what teachers voted -> labelsTr and consensus.json, or a prediction folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.data.predictions import PredictionFolder, portable_options
from nnkd.errors import SettingError
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.types import Failure, StepReport
from nnkd.votes import agreement, consensus
from nnkd.votes.agreement import AGREEMENT, AgreementFile
from nnkd.votes.panel import Outcome, Panel

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
    processes: int = 1,
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
        processes: How many cases to read and count at once.

    Returns:
        The report; its data hold "agreement" (see `nnkd.votes.agreement.summarise`), "disagreement" by case, and
        "review" (files).

    Raises:
        SettingError: If the aggregator draws teachers, the output would vote itself, or the aggregator is joint and the
            dataset has regions.
        NnkdError: If an option of the aggregator names another teacher or label.
        PredictionError: If there are no teachers, or they were made for other labels.
        UnknownNameError: If one of `teachers` does not exist.
        VotesError: If there are too many.
    """
    if aggregator.draws_teacher:
        raise SettingError(
            f"The aggregator '{name}' draws one teacher per training sample, so it stands for no single label map. "
            f"Use it in nnKD_train -a {name}; here take mean or majority."
        )
    if isinstance(aggregator, JointAggregator) and dataset.spec.has_regions:
        raise SettingError(
            f"The aggregator '{name}' needs labels that exclude each other, but {dataset.name} has regions. Take a "
            f"rule for each label alone, such as staple or majority."
        )
    source = dataset.teachers_folder() if source is None else source
    panel = Panel.open(source, dataset, teachers)
    aggregator = aggregator.for_teachers(panel.names, list(panel.spec.labels))
    if output is None:
        with consensus.writing(dataset, teachers or None):
            target = LabelsTr(dataset, panel)
            report = _run(target, aggregator, name, options, overwrite, processes)
            if review:
                _draw(report, target, review)
            return report
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise SettingError(
            f"The output '{output.name}' lies among the teachers in '{source.name}', where it would vote itself next "
            f"time. Choose another folder with -o."
        )
    folder = Folder(dataset.spec, panel, output, name, options, overwrite)
    return _run(folder, aggregator, name, options, overwrite, processes)


class Target(Protocol):
    """Where label maps go.

    Attributes:
        panel: Whose votes they are made from.
        title: What to call it.
        agreement_file: Where the figures go.
        images: The cases' images, whose grids count; None: the first teacher's grid does.
    """

    panel: Panel
    title: str
    agreement_file: Path
    images: ImageFolder | None

    def cases(self) -> list[str]: ...

    def manual(self) -> list[str]: ...

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool: ...

    def write(self, case: str, outcome: Outcome) -> bool: ...

    def fail(self, case: str, reason: str) -> None: ...


class LabelsTr:
    """labelsTr and consensus.json."""

    def __init__(self, dataset: RawDataset, panel: Panel):
        self.dataset, self.panel = dataset, panel
        self.title = f"labelsTr of {dataset.name}"
        self.agreement_file = dataset.teachers_folder() / AGREEMENT
        self.images = dataset.images()
        self._manual = consensus.manual_cases(dataset)
        self._index = consensus.read(dataset)

    def cases(self) -> list[str]:
        return self.images.cases()

    def manual(self) -> list[str]:
        return self._manual

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool:
        return not consensus.is_stale(self.dataset, case, inputs, self._index)

    def write(self, case: str, outcome: Outcome) -> bool:
        inputs = self.panel.inputs(case)
        took_part = [t for t in self.panel.names if f"{t}/{case}" in inputs]
        return consensus.write(
            self.dataset, case, outcome.label_map, outcome.properties, teachers=took_part, inputs=inputs
        )

    def fail(self, case: str, reason: str) -> None:
        """An older consensus stays, and `nnkd.votes.consensus.stale_cases` names it."""


class Folder:
    """A prediction folder of kind "aggregation"."""

    def __init__(
        self, spec: DatasetSpec, panel: Panel, output: Path, name: str, options: Mapping[str, Any], overwrite: bool
    ):
        self.spec, self.panel, self.folder = spec, panel, PredictionFolder(output)
        self.title = output.name
        self.agreement_file = output / AGREEMENT
        self.images = None
        self.found = self.folder.begin(panel.header(output.name, name, options), overwrite)

    def cases(self) -> list[str]:
        manifests = self.panel.manifests.values()
        return sorted({case for manifest in manifests for case in (*manifest.cases, *manifest.failures)})

    def manual(self) -> list[str]:
        return []

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool:
        return self.folder.is_done(self.found, case, inputs)

    def write(self, case: str, outcome: Outcome) -> bool:
        inputs = self.panel.inputs(case)
        self.folder.write(
            self.spec, case, outcome.label_map, outcome.properties, inputs=inputs, answers=outcome.answered
        )
        return True

    def fail(self, case: str, reason: str) -> None:
        self.folder.fail(case, reason)


def _run(
    target: Target, aggregator: Aggregator, name: str, options: Mapping[str, Any], overwrite: bool, processes: int
) -> StepReport:
    report, panel = StepReport(), target.panel
    figures = AgreementFile(
        target.agreement_file,
        {"aggregator": name, "options": portable_options(options), "teachers": panel.names},
    )
    manual = set(target.manual())
    todo: dict[str, bool] = {}  # the cases to vote on, and whether only their figures are missing
    for case in target.cases():
        done = not overwrite and target.is_done(case, panel.inputs(case))
        if case in manual or (done and figures.has(case, panel.inputs(case))):
            report.skipped.append(case)
        else:
            todo[case] = done
    _note_abstentions(panel, [*todo])
    outcomes = panel.outcomes([*todo], aggregator, target.images, processes)
    for case, outcome in tqdm(outcomes, total=len(todo), desc="aggregate", unit="case"):
        _take(report, target, figures, case, outcome, todo[case])
    _summarise(report, target, figures, manual)
    return report


def _take(
    report: StepReport, target: Target, figures: AgreementFile, case: str, outcome: Outcome | str, done: bool
) -> None:
    """Write one case's outcome, or note why there is none. A full disk raises: every other case would fail alike."""
    if isinstance(outcome, Outcome):
        figures.volume_unit = outcome.volume_unit
        figures.add(case, target.panel.inputs(case), outcome.figures)
        written = not done and target.write(case, outcome)
        (report.done if written else report.skipped).append(case)
    elif done:  # only its figures could not be counted
        report.skipped.append(case)
    else:
        target.fail(case, outcome)
        report.failures.append(Failure(case, outcome))


def _summarise(report: StepReport, target: Target, figures: AgreementFile, manual: set[str]) -> None:
    panel, made_by = target.panel, figures.made_by
    failed = {failure.case for failure in report.failures}
    current = sorted({*report.done, *report.skipped} - manual - failed)
    figures.cases = {case: figures.cases[case] for case in current if case in figures.cases}
    labels = [entry["labels"] for entry in figures.cases.values()]
    summary = agreement.summarise(labels, panel.names, panel.spec.labels) if labels else {}
    figures.save(summary)
    kept = len(manual & set(report.skipped))
    rule = ", ".join(f"{key}={value}" for key, value in made_by["options"].items())
    told = [teacher for teacher, manifest in panel.manifests.items() if manifest.ground_truth]
    report.lines += [
        f"{target.title}: {len(report.done)} written, {len(report.skipped) - kept} unchanged"
        + (f", {kept} manual label map(s) kept" if kept else ""),
        f"rule: {made_by['aggregator']}{f' ({rule})' if rule else ''} of {len(panel.names)} teacher(s)"
        + ("; an odd number would leave fewer ties" if len(panel.names) % 2 == 0 else ""),
        *([f"made with the help of ground truth: {', '.join(told)}"] if told else []),
        *(agreement.lines(summary, figures.volume_unit) if summary else []),
        f"figures of each case: {target.agreement_file.parent.name}/{AGREEMENT}",
    ]
    report.data = {"agreement": summary, "disagreement": {c: f["disagreement"] for c, f in figures.cases.items()}}


def _draw(report: StepReport, target: LabelsTr, number: int) -> None:
    """Overlays of the cases in which teachers differ most, in the dataset's folder review."""
    from nnkd.data.overlays import draw_overlays

    panel, far = target.panel, report.data["disagreement"]
    dataset, folder = target.dataset, target.dataset.folder / "review"
    chosen = sorted((case for case in far if far[case] > 0), key=lambda case: (-far[case], case))[:number]
    names = _names_by_integer(panel.spec)
    for case in set(far) - set(chosen):  # pictures of an earlier call that would mislead
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
    report.lines += [f"  review/{case}.png  {far[case]:.3f}" for case in chosen]
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
