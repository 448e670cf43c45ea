"""What students' and teachers' networks cost: whose there are, and one row of figures for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nnkd.errors import NnkdError
from nnkd.networks import students
from nnkd.networks.costs import Count, count
from nnkd.networks.latency import Latency
from nnkd.networks.papers import PaperCount, paper_count
from nnkd.plugin.networks import Architecture
from nnkd.plugin.teachers import Teacher


@dataclass(frozen=True)
class Subject:
    """A student or a teacher to profile.

    Attributes:
        kind: "student" or "teacher".
        name: How it is registered.
        target: Its class; None if that could not be imported.
        problem: Why not.
        size, channels, labels, options: Of a student, see `nnkd.networks.students.architectures`.
    """

    kind: str
    name: str
    target: type | None
    problem: str = ""
    size: tuple[int, ...] = (512, 512)
    channels: int = 1
    labels: int = 1
    options: Mapping[str, str] = field(default_factory=dict)

    def architectures(self) -> Sequence[Architecture]:
        """Its networks.

        Raises:
            NnkdError: If there are none; the message says why.
        """
        if self.target is None:
            raise NnkdError(self.problem)
        if issubclass(self.target, Teacher):
            return self.target.architectures()
        return students.architectures(self.target, self.name, self.size, self.channels, self.labels, self.options)

    def architecture(self, index: int) -> Architecture:
        """One of them; with `functools.partial` this is what another process can be handed."""
        return self.architectures()[index]


@dataclass(frozen=True)
class Row:
    """A network of a subject, and what it costs; what is None was not found out, and `problems` say why.

    Attributes:
        subject: Whose it is.
        index: Which of its networks.
        architecture: The network; None: there is none.
        counts: Its size.
        papers: The same as papers counted it.
        latency: What a run takes.
        problems: Why what is None is None.
    """

    subject: Subject
    index: int = 0
    architecture: Architecture | None = None
    counts: Count | None = None
    papers: PaperCount | None = None
    latency: Latency | None = None
    problems: tuple[str, ...] = ()

    def measured(self, timing: Callable[..., Latency] | None) -> Row:
        """The same row with what its network costs.

        Args:
            timing: `nnkd.networks.latency.measure` with all but what builds the network; None: nothing is timed.
        """
        if self.architecture is None:
            return self
        made: dict[str, Any] = {}
        problems: list[str] = []
        steps: dict[str, Callable[[], object]] = {
            "counts": partial(count, self.architecture),
            "papers": partial(paper_count, self.architecture),
        }
        if timing is not None:
            steps["latency"] = partial(timing, partial(self.subject.architecture, self.index))
        for name, step in steps.items():
            try:
                made[name] = step()
            except NnkdError as error:
                problems.append(str(error))
                if name == "counts":
                    break  # what cannot be built cannot be timed either
        return dataclasses.replace(self, problems=tuple(problems), **made)

    def as_data(self) -> dict[str, object]:
        """For JSON."""
        made: dict[str, object] = {"kind": self.subject.kind, "name": self.subject.name}
        architecture = self.architecture
        if architecture is not None:
            made["variant"] = architecture.variant
            made["input"] = [list(shape) for shape in architecture.inputs]
            made["run"] = architecture.graph
        if self.counts is not None:
            made |= dataclasses.asdict(self.counts)
        made["papers_way"] = dataclasses.asdict(self.papers) if self.papers is not None else None
        paper = architecture.paper if architecture is not None else None
        made["paper"] = dataclasses.asdict(paper) if paper is not None else None
        made["latency"] = dataclasses.asdict(self.latency) if self.latency is not None else None
        made["problems"] = list(self.problems)
        return made
