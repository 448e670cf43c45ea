"""Groups compared and written down: what nnKD_evaluate adds when it is given participants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnkd.evaluation.groups.cohort import EvaluatedPeople, divide
from nnkd.evaluation.groups.fairness import Fairness
from nnkd.evaluation.groups.files import clear_fairness, write_fairness
from nnkd.evaluation.groups.partitions import GroupOptions
from nnkd.evaluation.groups.section import fairness_lines, fairness_section
from nnkd.evaluation.intervals import Bootstrap
from nnkd.evaluation.scores import Scores


@dataclass(frozen=True)
class FairnessReport:
    """What came of it.

    Attributes:
        fairness: All figures; None if people could not be put into groups.
        section: For the page; None where nothing was asked for.
        lines: For the command.
        problems: A sentence each.
    """

    fairness: Fairness | None = None
    section: Mapping[str, Any] | None = None
    lines: list[str] = field(default_factory=list)
    problems: tuple[str, ...] = ()


def report_fairness(
    scores: Scores,
    people: EvaluatedPeople,
    options: GroupOptions | None,
    bootstrap: Bootstrap,
    facts: Mapping[str, Any],
    output: Path,
) -> FairnessReport:
    """Compare groups of people and write fairness.json and its tables.

    Args:
        scores: All evaluated folders.
        people: Behind the cases.
        options: How they are put into groups; None: they are not, and an earlier run's files go.
        bootstrap: How intervals are made.
        facts: What every output names.
        output: Folder.
    """
    if options is None:
        clear_fairness(output)
        return FairnessReport()
    fairness, problems = None, people.problems
    if people.has_attributes:
        cohort = divide(people.by_case, options, people.problems)
        fairness, problems = Fairness(scores, cohort, bootstrap), cohort.problems
    write_fairness(fairness, options, problems, facts, output)
    return FairnessReport(fairness, fairness_section(fairness, options, problems), fairness_lines(fairness), problems)
