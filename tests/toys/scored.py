"""Made-up results of folders, and what a reader sees of a page."""

from __future__ import annotations

import re

from nnkd.data.predictions import CaseRecord, Manifest
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.metrics import Counts, LabelResult
from nnkd.evaluation.scores import FolderScores, Rules, Scores

CASES = ("a", "b", "c")
LABELS = ("liver", "spleen")
RULES = Rules("monai", dict.fromkeys(LABELS, 2.0))


def result(value: float | None) -> LabelResult:
    """DSC and NSD as given and distances that fall with them; None: in neither file."""
    if value is None:
        return LabelResult("both_empty", Counts(0, 0, 0, 9), {})
    distances = {"HD": 10 - 10 * value, "HD95": 5 - 5 * value, "ASSD": 2 - 2 * value}
    values = {"DSC": value, "NSD": value, **distances, "VD": 10 - 10 * value, "RVD": 1 - value}
    return LabelResult("compared", Counts(1, 1, 1, 9), values)


def folder(name: str, values, answers=None) -> FolderScores:
    """Values by case, one per label."""
    manifest = None
    if answers is not None:
        records = {case: CaseRecord(inputs={}, output="", answers=list(said)) for case, said in answers.items()}
        manifest = Manifest(kind="teacher", name=name, made_by="x", labels={}, file_ending=".png", cases=records)
    results = {c: {lb: result(v) for lb, v in zip(LABELS, row, strict=True)} for c, row in values.items()}
    return FolderScores(name, manifest, dict.fromkeys(values, "file"), results)


def scores(*folders: FolderScores, rules: Rules = RULES) -> Scores:
    return Scores(folders, LABELS, CASES, {case: case for case in CASES}, Bootstrap(20, 0), rules)


GOOD = {"a": (0.9, 0.9), "b": (0.8, 0.9), "c": (0.7, 0.9)}
POOR = {"a": (0.5, 0.5), "b": (0.5, 0.5), "c": (0.5, None)}


def words(page: str) -> str:
    """What a reader sees, without pictures and tags."""
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))
