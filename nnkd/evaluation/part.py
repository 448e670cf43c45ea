"""The parts of an evaluation: what each adds to the folder, to the page and to what the command says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nnkd.types import Failure


class Part(Protocol):
    """What is told of the evaluated folders beside their scores.

    A new part is a class like this one, a line in `nnkd.steps.evaluate`, `templates/KEY.html` and its place in
    `nnkd.evaluation.report.SECTIONS`.
    """

    @property
    def key(self) -> str:
        """Its name in summary.json and on the page."""

    def write(self, output: Path) -> None:
        """Write its tables into the evaluation's folder."""

    def of_folder(self, name: str) -> Any | None:
        """What goes into that folder's summary.json; None: nothing."""

    def section(self) -> Mapping[str, Any] | None:
        """For the template; None: the page has no such section."""

    def lines(self) -> list[str]:
        """For the console."""

    def failures(self) -> list[Failure]:
        """What could not be done."""


@dataclass(frozen=True)
class Plain:
    """A part that is a section and no more, or not even that: where there is nothing to tell, or nobody asked.

    Attributes:
        key: See `Part`.
        content: Of the section.
    """

    key: str
    content: Mapping[str, Any] | None = None

    def write(self, output: Path) -> None:
        """Nothing."""

    def of_folder(self, name: str) -> None:
        """Nothing."""

    def section(self) -> Mapping[str, Any] | None:
        """What it was given."""
        return self.content

    def lines(self) -> list[str]:
        """None."""
        return []

    def failures(self) -> list[Failure]:
        """None."""
        return []
