"""How far teachers agree: DSC between them and with a consensus, volumes and ties, all from the pattern counts of a
case, without another look at the voxels."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter

from nnkd.errors import FileError, ReplacingError
from nnkd.files import read_json, sha256_text, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOG = logging.getLogger("nnkd")
AGREEMENT = "agreement.json"
NO_VOXEL = "no voxel tells"
ALONE = "one teacher answers alone, and its mask is the consensus"
SAVE_EVERY = 30.0  # seconds between two saves of the figures, which a killed run would have to count again


def pattern_bits(k: int) -> NDArray[np.int64]:
    """(K, 2**K) int64: whether teacher k says yes in each pattern, 0 or 1."""
    return (np.arange(1 << k, dtype=np.int64)[None] >> np.arange(k)[:, None]) & 1


def vote_sums(answers: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many of the answering teachers say yes in each pattern, and how many answer.

    Args:
        answers: (K, L) bool.

    Returns:
        (L, 2**K) int64 and (L,) int64.
    """
    answered = answers.astype(np.int64)
    return answered.T @ pattern_bits(len(answers)), answered.sum(axis=0)


def tied_patterns(answers: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(L, 2**K) bool: patterns in which as many answering teachers say yes as say no."""
    yes, answering = vote_sums(answers)
    tied: NDArray[np.bool_] = 2 * yes == answering[:, None]
    return tied & (answering > 0)[:, None]


def pairwise_dsc(counts: NDArray[np.int64], answers: NDArray[np.bool_]) -> NDArray[np.float64]:
    """DSC between teachers.

    Args:
        counts: (L, 2**K) voxels of each pattern.
        answers: (K, L) bool.

    Returns:
        (L, K, K) float64 in [0, 1], symmetric; NaN where one of the two abstains or both found nothing.
    """
    k = len(answers)
    result = np.empty((len(counts), k, k))
    for label, row in enumerate(counts):
        there = np.flatnonzero(row)
        bits = ((there[None] >> np.arange(k)[:, None]) & 1).astype(np.float64)  # exact up to 2**53 voxels
        common = (bits * row[there]) @ bits.T
        result[label] = _dsc(common, common.diagonal()[:, None], common.diagonal()[None])
        result[label][~(answers[:, label][:, None] & answers[:, label][None])] = np.nan
    return result


def dsc_with_consensus(
    counts: NDArray[np.int64], answers: NDArray[np.bool_], chosen: NDArray[np.int64]
) -> NDArray[np.float64]:
    """DSC of each teacher with a consensus.

    Args:
        counts: (L, 2**K) voxels of each pattern.
        answers: (K, L) bool.
        chosen: (L, 2**K) int64, voxels of each pattern to which the consensus says yes.

    Returns:
        (K, L) float64 in [0, 1]; NaN where the teacher abstains or both found nothing.
    """
    bits = pattern_bits(len(answers))
    result = _dsc(bits @ chosen.T, bits @ counts.T, chosen.sum(axis=1)[None])
    result[~answers] = np.nan
    return result


def _dsc(
    common: NDArray[np.integer | np.floating],
    one: NDArray[np.integer | np.floating],
    other: NDArray[np.integer | np.floating],
) -> NDArray[np.float64]:
    total = np.asarray(one + other, dtype=np.float64)
    dsc: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(2.0 * common, total, out=dsc, where=total > 0)
    return dsc


def figures_of_case(
    counts: NDArray[np.int64],
    answers: NDArray[np.bool_],
    chosen: NDArray[np.int64],
    teachers: Sequence[str],
    labels: Iterable[str],
    voxel_volume: float,
    estimates: Mapping[str, NDArray[np.floating]] = MappingProxyType({}),
    estimates_from: int = 3,
) -> dict[str, dict[str, Any]]:
    """What is worth knowing of one case, as plain numbers for JSON.

    Args:
        counts: (L, 2**K) voxels of each pattern.
        answers: (K, L) bool.
        chosen: (L, 2**K) int64, voxels of each pattern to which the consensus says yes.
        teachers: In bit order.
        labels: In the order of L.
        voxel_volume: Of one voxel, in the unit of the report (ml, or 1 to count pixels).
        estimates: What the aggregator found out about the teachers, by name: (K, L) float, NaN where nothing is known.
        estimates_from: How many teachers have to answer before anything can be.

    Returns:
        By label: "volume" and "dsc" (with the consensus) by teacher, "pairs" ([teacher, teacher, DSC]), "ties" and
        "voted" (voxels in a tie; voxels any answering teacher gave the label to). Abstaining teachers are left out;
        a DSC is None where both found nothing, and that of a teacher that answers alone, whose mask is the consensus.
        With `estimates` also "estimates", by name and teacher, and "not_estimated": why there are none, by name.
    """
    yes, _ = vote_sums(answers)
    sizes = pattern_bits(len(teachers)) @ counts.T
    pairs, dsc = pairwise_dsc(counts, answers), dsc_with_consensus(counts, answers, chosen)
    ties = (counts * tied_patterns(answers)).sum(axis=1)
    voted = (counts * (yes > 0)).sum(axis=1)
    figures: dict[str, dict[str, Any]] = {}
    for index, label in enumerate(labels):
        who = [k for k in range(len(teachers)) if answers[k, index]]
        figures[label] = {
            "volume": {teachers[k]: float(sizes[k, index] * voxel_volume) for k in who},
            "dsc": {teachers[k]: _plain(dsc[k, index]) if len(who) > 1 else None for k in who},
            "pairs": [[teachers[i], teachers[j], _plain(pairs[index, i, j])] for i, j in combinations(who, 2)],
            "ties": int(ties[index]),
            "voted": int(voted[index]),
        }
        if estimates:
            found = {name: {teachers[k]: _plain(values[k, index]) for k in who} for name, values in estimates.items()}
            why = NO_VOXEL if len(who) >= estimates_from else f"{_answer(len(who))}, and {estimates_from} are needed"
            absent = [name for name, by_teacher in found.items() if set(by_teacher.values()) <= {None}]
            figures[label] |= {"estimates": found, "not_estimated": dict.fromkeys(absent, why)}
    return figures


def _answer(number: int) -> str:
    return "no teacher answers" if not number else f"{number} teacher{'s answer' if number > 1 else ' answers'}"


def disagreement(figures: Mapping[str, Mapping[str, Any]]) -> float:
    """How far teachers differ in a case: 1 minus the mean pairwise DSC, over all pairs and labels that count.

    Returns:
        In [0, 1]; 0 if there is no pair that counts.
    """
    values = [dsc for label in figures.values() for _, _, dsc in label["pairs"] if dsc is not None]
    return 1.0 - float(np.mean(values)) if values else 0.0


def summarise(
    cases: Iterable[Mapping[str, Mapping[str, Any]]], teachers: Sequence[str], labels: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Figures over all cases.

    Args:
        cases: What `figures_of_case` returned, one a case.
        teachers: In the order to report.
        labels: In the order to report.

    Returns:
        By label: "teachers" (by name: "cases" answered, "mean_volume", "mean_dsc" with the consensus), "pairs"
        ([teacher, teacher, mean DSC]) and "tie_share" (ties among the voxels that any teacher gave the label to).
        Where the aggregator estimates the teachers' quality, "estimates" too: means by name and teacher. Means are None
        where no case counts. "absent" says what is missing in how many cases, and why: [name, reason, cases].
    """
    cases = list(cases)
    summary = {}
    for label in labels:
        mine = [figures[label] for figures in cases]
        voted = sum(figure["voted"] for figure in mine)
        summary[label] = {
            "teachers": {teacher: _of_teacher(mine, teacher) for teacher in teachers},
            "pairs": [[a, b, _mean(_of_pair(mine, a, b))] for a, b in combinations(teachers, 2)],
            "tie_share": sum(figure["ties"] for figure in mine) / voted if voted else None,
        }
        names = dict.fromkeys(name for figure in mine for name in figure.get("estimates", {}))
        if names:
            summary[label]["estimates"] = {name: _of_estimate(mine, name, teachers) for name in names}
        summary[label]["absent"] = _absent(mine)
    return summary


def _absent(figures: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """[name, reason, cases] of figures that a label's cases lack."""
    alone = [("DSC with consensus", ALONE) for figure in figures if len(figure["volume"]) == 1]
    unknown = [pair for figure in figures for pair in figure.get("not_estimated", {}).items()]
    return [[name, why, cases] for (name, why), cases in Counter([*alone, *unknown]).items()]


def _of_teacher(figures: Sequence[Mapping[str, Any]], teacher: str) -> dict[str, Any]:
    volumes = [figure["volume"][teacher] for figure in figures if teacher in figure["volume"]]
    return {
        "cases": len(volumes),
        "mean_volume": _mean(volumes),
        "mean_dsc": _mean(figure["dsc"].get(teacher) for figure in figures),
    }


def _of_estimate(figures: Sequence[Mapping[str, Any]], name: str, teachers: Sequence[str]) -> dict[str, float | None]:
    found = [figure.get("estimates", {}).get(name, {}) for figure in figures]
    return {teacher: _mean(values.get(teacher) for values in found) for teacher in teachers}


def _of_pair(figures: Sequence[Mapping[str, Any]], one: str, other: str) -> list[float | None]:
    return [dsc for figure in figures for a, b, dsc in figure["pairs"] if {a, b} == {one, other}]


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def lines(summary: Mapping[str, Mapping[str, Any]], unit: str) -> list[str]:
    """A summary as text: per label one table of teachers, with the pairwise DSC on its right.

    Args:
        summary: What `summarise` returned.
        unit: Of the volumes, such as "ml".
    """
    text = []
    for label, figures in summary.items():
        names = list(figures["teachers"])
        width = max(8, *(len(name) for name in names))
        share = "none" if figures["tie_share"] is None else f"{100 * figures['tie_share']:.1f} %"
        text += ["", f"{label}: ties in {share} of the voxels that any teacher gave this label to"]
        head = "  ".join(f"{name:>{max(6, len(name))}}" for name in names)
        text.append(f"  {'teacher':<{width}}  cases  mean {unit:<6}  DSC with consensus  | DSC with  {head}")
        pairs = {frozenset((a, b)): dsc for a, b, dsc in figures["pairs"]}
        for name, row in figures["teachers"].items():
            between = "  ".join(
                f"{'.' if other == name else _short(pairs[frozenset((name, other))]):>{max(6, len(other))}}"
                for other in names
            )
            volume = "-" if row["mean_volume"] is None else f"{row['mean_volume']:.4g}"
            mine = f"{name:<{width}}  {row['cases']:>5}  {volume:>11}  {_short(row['mean_dsc']):>18}"
            text.append(f"  {mine}  |           {between}")
        if "estimates" in figures:
            text += _lines_of_estimates(figures["estimates"], names, width)
        text += [f"  no {name} in {cases} case(s): {why}" for name, why, cases in figures["absent"]]
    return text


def _lines_of_estimates(
    estimates: Mapping[str, Mapping[str, float | None]], teachers: Sequence[str], width: int
) -> list[str]:
    columns = [(name, max(9, len(name))) for name in estimates]
    text = ["  estimated without ground truth, means over cases"]
    text.append(f"  {'teacher':<{width}}  " + "  ".join(f"{name:>{wide}}" for name, wide in columns))
    for teacher in teachers:
        row = "  ".join(f"{_short(estimates[name][teacher], 4):>{wide}}" for name, wide in columns)
        text.append(f"  {teacher:<{width}}  {row}")
    return text


def _short(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


class _Figures(BaseModel):
    """What `figures_of_case` returns of a label, as it is read back."""

    volume: dict[str, float]
    dsc: dict[str, float | None]
    pairs: list[tuple[str, str, float | None]]
    ties: int
    voted: int
    estimates: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    not_estimated: dict[str, str] = Field(default_factory=dict)


class _Kept(BaseModel):
    inputs: str
    disagreement: float
    labels: dict[str, _Figures]


class AgreementFile:
    """agreement.json: figures of each case, kept so that skipped cases need not be counted again.

    Attributes:
        file: Where it lies.
        made_by: What the figures depend on beside the cases; figures of another rule or other teachers are dropped.
        volume_unit: "ml", or "voxels" for images without geometry.
        cases: By case: "inputs" (a hash), "disagreement" (see `disagreement`) and "labels" (see `figures_of_case`).
    """

    def __init__(self, file: Path, made_by: Mapping[str, Any]):
        self.file = file
        self.made_by: dict[str, Any] = json.loads(json.dumps(made_by))  # as it will be read back
        self.volume_unit = "ml"
        self.cases: dict[str, dict[str, Any]] = {}
        self._saved = time.monotonic()
        if not file.is_file():
            return
        try:
            found = read_json(file)
            if not isinstance(found, dict) or not {"schema_version", "cases"} & found.keys():
                raise ReplacingError(
                    f"'{file.name}' in '{file.parent.name}' is none of nnkd's and would be replaced. Rename it."
                )
            if {key: found[key] for key in self.made_by} == self.made_by:
                kept = TypeAdapter(dict[str, _Kept]).validate_python(found["cases"])
                self.cases = {case: found["cases"][case] for case in kept}
                self.volume_unit = str(found["volume_unit"])
        except (FileError, KeyError, TypeError, ValueError):  # figures can always be counted again
            LOG.info("%s is broken or from another version; its figures are counted again.", file.name)

    def has(self, case: str, inputs: Mapping[str, str]) -> bool:
        """Whether the figures of a case are known for these inputs."""
        return case in self.cases and self.cases[case]["inputs"] == _digest(inputs)

    def add(self, case: str, inputs: Mapping[str, str], labels: Mapping[str, Any]) -> None:
        """Take note of a case; saved now and then.

        Args:
            case: Its identifier.
            inputs: Hashes of what it was made from.
            labels: What `figures_of_case` returned.
        """
        share = round(disagreement(labels), 4)
        self.cases[case] = {"inputs": _digest(inputs), "disagreement": share, "labels": dict(labels)}
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save({})

    def save(self, summary: Mapping[str, Any]) -> None:
        """Write the file, with a summary of all cases on top."""
        above = {"schema_version": 1, **self.made_by, "volume_unit": self.volume_unit}
        write_json(self.file, {**above, "labels": summary, "cases": self.cases})
        self._saved = time.monotonic()


def _digest(inputs: Mapping[str, str]) -> str:
    return sha256_text(json.dumps(dict(sorted(inputs.items()))))
