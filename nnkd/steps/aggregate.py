"""nnKD_aggregate's step: what teachers voted -> labelsTr and consensus.json, or a prediction folder of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnkd.data.dataset import RawDataset
from nnkd.data.predictions import count_predictions, portable_options
from nnkd.errors import SettingError
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.replacing import check_results
from nnkd.types import Failure, StepReport
from nnkd.votes import agreement, consensus
from nnkd.votes.agreement import AGREEMENT, AgreementFile
from nnkd.votes.outputs import Folder, LabelsTr, Target
from nnkd.votes.panel import Outcome, Panel

log = logging.getLogger("nnkd")


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
    replace: bool = False,
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
        replace: Whether files that nnkd did not write may be replaced; manual label maps never are.
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
            target = LabelsTr(dataset, panel, replace)
            if review:
                target.pictures.check(f"{case}.png" for case in target.cases())
            report, disagreement = _run(target, aggregator, name, options, overwrite, processes)
            if review:
                files, lines = target.review(disagreement, review)
                report.data = {**report.data, "review": files}
                report.lines += ["", *lines]
            report.folders = [dataset.images().listing.count(), dataset.label_maps().count()]
            report.folders += count_predictions(source, dataset.images().cases(), teachers)
            return report
    if source.resolve() in (output.resolve(), *output.resolve().parents):
        raise SettingError(
            f"The output '{output.name}' lies among the teachers in '{source.name}', where it would vote itself next "
            f"time. Choose another folder with -o."
        )
    said = check_results(output)
    if said:
        log.warning(said)
    folder = Folder(dataset.spec, panel, output, name, options, overwrite, replace)
    report, _ = _run(folder, aggregator, name, options, overwrite, processes)
    report.folders = count_predictions(source, None, teachers)
    return report


def _run(
    target: Target, aggregator: Aggregator, name: str, options: Mapping[str, Any], overwrite: bool, processes: int
) -> tuple[StepReport, Mapping[str, float]]:
    """The report, and how much teachers differ by case."""
    report, panel = StepReport(), target.panel
    figures = AgreementFile(
        target.agreement_file,
        {"aggregator": name, "options": portable_options(options), "teachers": panel.names},
    )
    manual = set(target.manual())
    todo: dict[str, bool] = {}  # the cases to vote on, and whether only their figures are missing
    other = {} if target.images is None else panel.of_other_images(target.cases(), target.images)
    for case in target.cases():
        if case in other and case not in manual:
            target.fail(case, other[case])
            report.failures.append(Failure(case, other[case]))
            continue
        done = not overwrite and target.is_done(case, panel.inputs(case))
        if case in manual or (done and figures.has(case, panel.inputs(case))):
            report.skipped.append(case)
        else:
            todo[case] = done
    panel.note_abstentions([*todo])
    outcomes = panel.outcomes([*todo], aggregator, target.images, processes)
    for case, outcome in tqdm(outcomes, total=len(todo), desc="aggregate", unit="case"):
        _take(report, target, figures, case, outcome, todo[case])
    return report, _summarise(report, target, figures, manual)


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


def _summarise(report: StepReport, target: Target, figures: AgreementFile, manual: set[str]) -> Mapping[str, float]:
    """Complete the report; returns how much teachers differ by case."""
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
    disagreement = {case: found["disagreement"] for case, found in figures.cases.items()}
    report.data = {"agreement": summary, "disagreement": disagreement}
    return disagreement
