"""One HTML page that shows what an evaluation came to: self-contained, offline, printable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.data.dataset import DatasetSpec, ImageFolder
from nnkd.data.overlays import overlays_png
from nnkd.data.predictions import Manifest
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.errors import NnkdError
from nnkd.evaluation.cells import NONE, cell, interval, number, quantity
from nnkd.evaluation.comparisons import Files
from nnkd.evaluation.metrics import METRICS
from nnkd.evaluation.part import Part
from nnkd.evaluation.plots import box_plot, difference_plot
from nnkd.evaluation.scores import COMMON, DIGITS, FLAGS, OVERALL, Cell, Difference, FolderScores, Scores, verdict
from nnkd.figures import embedded
from nnkd.files import atomic
from nnkd.weights.licences import announcement

TABLES = ("DSC", "HD", "HD95", "NSD", "ASSD", "VD", "RVD")
SECTIONS = (  # templates between the scores and what was evaluated, keys of parts among them
    "ranking", "raters", "differences", "cases", "fairness", "auxiliaries", "overlays", "uncertainty",
)  # fmt: skip
PLOTS = ("DSC", "HD")
MOST_PLOTTED = 24  # labels; beyond, a page of small plots says less than the tables
MOST_ROWS = 15  # pairs in a difference plot
MOST_FLAGS = 200
WIDEST_TABLE = 13  # columns; wider tables are turned so that they fit on paper


@dataclass(frozen=True)
class Evaluation:
    """What the report shows.

    Attributes:
        scores: All evaluated folders.
        spec: The dataset.
        facts: Definition, tolerance and whatever else is named.
        references: Reference label map by case.
        predictions: Label map by folder's name and case.
        images: Folders where the cases' images may be.
        parts: What else is told, in `Part`s.
        files: What was compared, and what integers mean there; None: as in dataset.json.
    """

    scores: Scores
    spec: DatasetSpec
    facts: Mapping[str, Any]
    references: Mapping[str, Path]
    predictions: Mapping[str, Mapping[str, Path]]
    images: Sequence[Path]
    parts: Sequence[Part] = ()
    files: Files | None = None

    def read(self, file: Path, name: str | None = None) -> tuple[np.ndarray, Grid]:
        """A folder's label map, or without a name a reference, in the integers of dataset.json, and its grid."""
        if self.files is None:
            return self.spec.read_label_map(file)[:2]
        return self.files.labels_of(self.spec, name).read(file)[:2]


def write_report(evaluation: Evaluation, file: Path) -> None:
    """Write the page atomically."""
    content = render(evaluation)
    with atomic(file) as temporary:
        temporary.write_text(content, encoding="utf-8")


def render(evaluation: Evaluation) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("nnkd.evaluation"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    scores, unit = evaluation.scores, str(evaluation.facts["unit"])
    flags = [(folder.name, *flag) for folder in scores.folders for flag in scores.flags(folder)]
    return environment.get_template("report.html").render(
        sections=SECTIONS,
        facts=evaluation.facts,
        folders=[_folder(folder, scores) for folder in scores.folders],
        labels=scores.labels,
        tables=[_table(scores, metric, unit) for metric in TABLES],
        plots=_plots(scores, unit),
        plotted=_few(scores),
        notes=_notes(scores),
        differences=_differences(scores, unit),
        overlays=_overlays(evaluation),
        best=scores.best().name,
        flags=flags[:MOST_FLAGS],
        more_flags=max(0, len(flags) - MOST_FLAGS),
        flag_texts=FLAGS,
        failures=[(f.name, case, reason) for f in scores.folders for case, reason in sorted(f.failures.items())],
        **{part.key: part.section() for part in evaluation.parts},
    )


def _folder(folder: FolderScores, scores: Scores) -> dict[str, Any]:
    """What a folder's manifest says of it."""
    manifest = folder.manifest
    found = {
        "name": folder.name,
        "label_maps": sum(case in folder.files for case in scores.cases),
        "unanswered": scores.unanswered(folder),
        "extra": len(set(folder.files) - set(scores.cases)),
        "manifest": manifest is not None,
    }
    if manifest is None:
        return found
    return {
        **found,
        "kind": manifest.kind,
        "made_by": manifest.made_by,
        "made_on": manifest.made_on,
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "options": ", ".join(f"{name}={value}" for name, value in manifest.options.items()),
        "licences": _licences(manifest),
        "ground_truth": manifest.ground_truth,
    }


def _licences(manifest: Manifest) -> list[str]:
    said = []
    for model in manifest.lineage:
        weights = f", weights {model.weights_licence}" if model.weights_licence else ""
        said.append(f"{model.name}: {model.licence or 'not stated'}{weights}")
    bound = announcement((model.model_dump() for model in manifest.lineage), manifest.name)
    said += [bound] if bound else []
    return said or [f"weights {w.name}: {w.licence or 'not stated'}" for w in manifest.weights]


def _table(scores: Scores, metric: str, unit: str) -> dict[str, Any]:
    """A metric's table as heads and rows of cells, ready for the page."""
    rows = scores.table(metric)
    columns = scores.columns()
    several = len(scores.folders) > 1
    cells = [[_cell(rows[folder.name][column], metric, several) for column in columns] for folder in scores.folders]
    names = [f"{folder.name} ‡" if _saw_truth(folder) else folder.name for folder in scores.folders]
    turned = len(columns) > WIDEST_TABLE and len(names) <= WIDEST_TABLE
    if turned:
        cells = [list(row) for row in zip(*cells, strict=True)]
    return {
        "metric": metric,
        "title": METRICS[metric].title,
        "quantity": _reading(metric, unit),
        "corner": "Label" if turned else "Folder",
        "heads": names if turned else columns,
        "rows": list(zip(columns if turned else names, cells, strict=True)),
    }


def _reading(metric: str, unit: str) -> str:
    """Unit, and which way to read a table."""
    better = {True: "higher is better", False: "lower is better", None: "not ranked"}[METRICS[metric].higher_is_better]
    if METRICS[metric].unit == "ml" and unit != "mm":
        return f"thousands of pixels, {better}"
    return ", ".join(part for part in ({"mm": unit}.get(METRICS[metric].unit, METRICS[metric].unit), better) if part)


def _notes(scores: Scores) -> list[str]:
    """Why a folder's means are marked, and which labels are common, once for all tables."""
    found: dict[str, list[str]] = {}
    for folder, row in scores.table("DSC").items():
        for column, one in row.items():
            if one.estimate and one.note and column in scores.labels:
                found.setdefault(f"{folder}: {{}} {one.note}", []).append(column)
    marked = [f"† {note.format(', '.join(columns))}" for note, columns in found.items()]
    if seers := [folder.name for folder in scores.folders if _saw_truth(folder)]:
        marked.append(f"‡ made with the help of ground truth: {', '.join(seers)}")
    return [*marked, *([f"Common labels: {', '.join(scores.common_labels)}"] if COMMON in scores.columns() else [])]


def _saw_truth(folder: FolderScores) -> bool:
    return folder.manifest is not None and folder.manifest.ground_truth


def _cell(found: Cell, metric: str, several: bool) -> dict[str, Any]:
    if found.estimate is None:
        return {"text": NONE, "note": found.note, "mark": False}
    return {
        **cell(found.estimate, DIGITS[metric]),
        "rank": found.rank if several else None,
        "note": found.note,
        "mark": bool(found.note),
        "count": f"{found.estimate.n_cases} cases, {found.estimate.n_participants} participants",
        "n": found.estimate.n_cases,
    }


def _plots(scores: Scores, unit: str) -> list[tuple[str, list[dict[str, str]]]]:
    """Small plots, metric by metric and label by label."""
    return [(m, [_plot(scores, m, label, unit) for label in scores.labels]) for m in PLOTS] if _few(scores) else []


def _few(scores: Scores) -> bool:
    return len(scores.labels) <= MOST_PLOTTED


def _plot(scores: Scores, metric: str, label: str, unit: str) -> dict[str, str]:
    values = {folder.name: folder.values(label, metric, scores.cases) for folder in scores.folders}
    worst = {f.name: {case for case in values[f.name] if _by_rule(f, case, label)} for f in scores.folders}
    return {
        "src": embedded(box_plot(values, worst, label, quantity(metric, unit))),
        "alt": f"{metric} of {label} by folder",
    }


def _by_rule(folder: FolderScores, case: str, label: str) -> bool:
    return folder.results[case][label].state != "compared"


def _differences(scores: Scores, unit: str) -> list[dict[str, Any]]:
    """A plot of the overall differences per metric, and the same in words."""
    made = []
    for metric in PLOTS if len(scores.folders) > 1 else ():
        whole = [d for d in scores.differences(metric) if d.label not in scores.labels]
        if not whole:
            continue
        best = scores.best().name
        shown = whole if len(whole) <= MOST_ROWS else [d for d in whole if best in (d.first, d.second)][:MOST_ROWS]
        better = "right" if METRICS[metric].higher_is_better else "left"
        shows = f"difference of mean {quantity(metric, unit)}\n{better} of 0: the first is better"
        picture = difference_plot(shown, metric, shows)
        rows = [_difference(d, metric) for d in shown]
        made.append({"metric": metric, "src": embedded(picture), "rows": rows, "left_out": len(whole) - len(shown)})
    return made


def _difference(difference: Difference, metric: str) -> dict[str, str]:
    return {
        "first": difference.first,
        "second": difference.second,
        "over": "all labels" if difference.label == OVERALL else difference.label,
        "value": number(difference.estimate.value, DIGITS[metric], sign=True),
        "interval": interval(difference.estimate, DIGITS[metric], sign=True),
        "verdict": verdict(difference),
        "n": str(difference.estimate.n_participants),
    }


def chosen_cases(scores: Scores) -> dict[str, str]:
    """The best, the median and the worst case of the best folder, by mean DSC over its counted labels."""
    means = scores.case_means(scores.best())
    ordered = sorted(means, key=lambda case: (-means[case], case))
    if not ordered:
        return {}
    middle = ordered[1:-1]  # fewer than three cases have no median of their own
    chosen = {"best": ordered[:1], "median": middle[len(middle) // 2 :][:1], "worst": ordered[1:][-1:]}
    return {which: cases[0] for which, cases in chosen.items() if cases}


def _overlays(evaluation: Evaluation) -> list[dict[str, Any]]:
    scores, best = evaluation.scores, evaluation.scores.best()
    made = []
    for which, case in chosen_cases(scores).items():
        picture, has_image = _overlay(evaluation, case)
        dsc = scores.case_means(best)[case]
        values = [f"{f.name} {m[case]:.3f}" for f in scores.folders if case in (m := scores.case_means(f))]
        made.append(
            {
                "which": which,
                "case": case,
                "dsc": f"{dsc:.3f}",
                "values": ", ".join(values),
                "src": embedded(picture),
                "has_image": has_image,
            }
        )
    return made


def _overlay(evaluation: Evaluation, case: str) -> tuple[bytes, bool]:
    """Picture of one case, and whether its image was found."""
    spec = evaluation.spec
    reference, grid = evaluation.read(evaluation.references[case])
    label_maps = {"reference": reference}
    for folder in evaluation.scores.folders:
        file = evaluation.predictions[folder.name].get(case)
        if case in folder.failures:
            continue
        label_maps[folder.name] = np.zeros_like(reference) if file is None else evaluation.read(file, folder.name)[0]
    orientation = Orientation(grid)
    image = _image(evaluation, case, grid)
    picture = overlays_png(
        orientation.to_lps(np.zeros((1, *grid.shape), np.float32) if image is None else image),
        {name: orientation.to_lps(label_map) for name, label_map in label_maps.items()},
        label_names=integer_names(spec, evaluation.scores.labels),
        spacing=orientation.grid.spacing,
        dpi=150,
    )
    return picture, image is not None


def _image(evaluation: Evaluation, case: str, grid: Grid) -> np.ndarray | None:
    """(C, Z, Y, X) of the case, or None where no folder has it on the reference's grid."""
    for folder in evaluation.images:
        try:
            array, mine, _ = ImageFolder(folder, evaluation.spec).read(case)
        except NnkdError:  # the picture is drawn without
            continue
        if not mine.difference(grid):
            return array
    return None


def integer_names(spec: DatasetSpec, labels: Sequence[str]) -> dict[int, str]:
    """What to call an integer in a picture: of several regions that hold it, the smallest."""
    names: dict[int, str] = {}
    for label in sorted(labels, key=lambda label: -len(spec.labels[label])):
        names.update(dict.fromkeys(spec.labels[label], label))
    return dict(sorted(names.items()))
