"""Groups compared and written down: what nnKD_evaluate adds when it is given participants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nnkd.evaluation.groups.cohort import EvaluatedPeople, divide
from nnkd.evaluation.groups.fairness import Fairness
from nnkd.evaluation.groups.files import write_fairness
from nnkd.evaluation.groups.partitions import GroupOptions
from nnkd.evaluation.groups.section import fairness_lines, fairness_section
from nnkd.evaluation.part import Part, Plain
from nnkd.evaluation.scores import Scores
from nnkd.types import Failure

KEY = "fairness"


@dataclass(frozen=True)
class FairnessReport:
    """The part of an evaluation that compares groups of people.

    Attributes:
        fairness: All figures; None if people could not be put into groups.
        options: How they are put into groups.
        problems: Why they could not, a sentence each.
        facts: What every output names.
    """

    fairness: Fairness | None
    options: GroupOptions
    problems: tuple[str, ...]
    facts: Mapping[str, Any]
    key: ClassVar[str] = KEY

    def write(self, output: Path) -> None:
        """fairness.json and its tables."""
        write_fairness(self.fairness, self.options, self.problems, self.facts, output)

    def of_folder(self, name: str) -> None:
        """Nothing: all of it is in fairness.json."""

    def section(self) -> dict[str, Any]:
        """See `nnkd.evaluation.groups.section`."""
        return fairness_section(self.fairness, self.options, self.problems)

    def lines(self) -> list[str]:
        """Each folder's largest gap."""
        return fairness_lines(self.fairness)

    def failures(self) -> list[Failure]:
        """What must be mended in participants.tsv."""
        return [Failure("participants", problem) for problem in self.problems]


def fairness_part(
    scores: Scores, people: EvaluatedPeople, options: GroupOptions | None, facts: Mapping[str, Any]
) -> Part:
    """Compare groups of people, where it was asked for.

    Args:
        scores: All evaluated folders.
        people: Behind the cases.
        options: How they are put into groups; None: they are not.
        facts: What every output names.
    """
    if options is None:
        return Plain(KEY)
    if not people.has_attributes:
        return FairnessReport(None, options, people.problems, facts)
    cohort = divide(people.by_case, options, people.problems)
    return FairnessReport(Fairness(scores, cohort, scores.bootstrap), options, cohort.problems, facts)
