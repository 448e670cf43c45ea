"""DATA_IDENTIFIER_votes: the votes of all teachers on the preprocessed grid, and votes.json, which explains them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nnkd.data.predictions import Lineage, PredictionFolder, files_of_cases
from nnkd.errors import VotesError
from nnkd.files import read_json, sha256_text, write_json
from nnkd.plugin.aggregators import Aggregator
from nnkd.votes import bits as votes

if TYPE_CHECKING:
    from numpy.typing import NDArray

INDEX = "votes.json"


class VotesOfCase(BaseModel):
    """Attributes:
    outputs: sha256 of each teacher's label map; teachers that did not segment the case are absent.
    answers: Labels each of them answers for.
    counts: Voxels on the raw grid, by label and by pattern (bit k = teacher k).
    origins: Digest by origin of what the votes were made from, see `nnkd.data.origins`.
    """

    outputs: dict[str, str]
    answers: dict[str, list[str]]
    counts: dict[str, dict[int, int]]
    origins: dict[str, str] = Field(default_factory=dict)


class VotesIndex(BaseModel):
    """votes.json.

    Attributes:
        teachers: In bit order.
        labels: In channel order; regions where the dataset has them.
        lineage: The teachers and their licences.
        ground_truth: Whether a teacher was told of reference labels.
        manual: Cases whose label map is manual; they need no votes.
        cases: Votes by identifier.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    teachers: list[str]
    labels: list[str]
    lineage: list[Lineage] = Field(default_factory=list)
    ground_truth: bool = False
    manual: Annotated[list[str], AfterValidator(files_of_cases)] = Field(default_factory=list)
    cases: Annotated[dict[str, VotesOfCase], AfterValidator(files_of_cases)] = Field(default_factory=dict)

    def same_bits(self, other: VotesIndex) -> bool:
        """Whether bits and channels mean the same in both."""
        return self.teachers == other.teachers and self.labels == other.labels


class VotesFolder:
    """The votes of one configuration of one preprocessed dataset.

    Attributes:
        folder: DATA_IDENTIFIER_votes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of(cls, preprocessed: Path, data_identifier: str) -> VotesFolder:
        """The votes beside a configuration's preprocessed cases."""
        return cls(preprocessed / f"{data_identifier}_votes")

    def exists(self) -> bool:
        """Whether votes were preprocessed."""
        return (self.folder / INDEX).is_file()

    @cached_property
    def index(self) -> VotesIndex:
        """votes.json.

        Raises:
            VotesError: If it is missing or broken.
        """
        if not self.exists():
            raise VotesError(
                f"{self.folder.parent.name} has no votes for {self.folder.name[: -len('_votes')]}. "
                f"Run nnKD_predict_teachers, nnKD_aggregate and nnKD_plan_and_preprocess."
            )
        try:
            return VotesIndex.model_validate(read_json(self.folder / INDEX))
        except ValidationError as error:
            problem = error.errors()[0]
            raise VotesError(
                f"{INDEX} in {self.folder.name} is not as expected ({problem['loc']}: {problem['msg']}). "
                f"Delete that folder and run nnKD_plan_and_preprocess again."
            ) from error

    def write_index(self, index: VotesIndex) -> None:
        """Write votes.json atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / INDEX, index.model_dump(mode="json"))
        self.__dict__["index"] = index

    def file(self, case: str) -> Path:
        """Where a case's votes lie."""
        return self.folder / f"{case}.b2nd"

    def open(self, case: str) -> Any:
        """The votes of a case as a lazily read blosc2 array, (L, *S) unsigned."""
        import blosc2

        return blosc2.open(urlpath=str(self.file(case)), mode="r", dparams={"nthreads": 1})

    def counts(self, case: str) -> NDArray[np.int64]:
        """(L, 2**K) int64 voxels of each pattern, on the raw grid."""
        record = self.index.cases[case]
        dense = np.zeros((len(self.index.labels), 1 << len(self.index.teachers)), dtype=np.int64)
        for row, label in zip(dense, self.index.labels, strict=True):
            for pattern, number in record.counts[label].items():
                row[pattern] = number
        return dense

    def answers(self, case: str, teachers: Sequence[str]) -> NDArray[np.bool_]:
        """(K, L) bool, whether each of `teachers` answers for each label in this case."""
        given = self.index.cases[case].answers
        return np.array([[label in given.get(t, ()) for label in self.index.labels] for t in teachers], dtype=bool)

    def bits(self, teachers: Sequence[str]) -> list[int]:
        """Their bits.

        Raises:
            VotesError: If votes were preprocessed without one of them.
        """
        gone = [t for t in teachers if t not in self.index.teachers]
        if gone:
            raise VotesError(
                f"The votes in {self.folder.parent.name}/{self.folder.name} hold no teacher {', '.join(gone)}; they "
                f"hold {', '.join(self.index.teachers)}. Run nnKD_predict_teachers and nnKD_plan_and_preprocess "
                f"again, or leave it out with -t."
            )
        return [self.index.teachers.index(t) for t in teachers]

    def table(self, case: str, teachers: Sequence[str], aggregator: Aggregator) -> NDArray[np.float32]:
        """Fit an aggregator to one case.

        Returns:
            (L, 2**K) float32 for the stored patterns of all K teachers; NO_VOTE in rows nobody answers for.
        """
        keep = self.bits(teachers)
        merged = votes.merge(self.counts(case), keep)
        small = votes.fit(aggregator, merged, self.answers(case, teachers))
        return votes.expand(small, keep, len(self.index.teachers))

    def digests(self, teachers: Sequence[str]) -> dict[str, str]:
        """By teacher, one hash over its label maps of all cases: what a recipe was made from."""
        return {t: _digest({c: r.outputs[t] for c, r in self.index.cases.items() if t in r.outputs}) for t in teachers}

    def check_fresh(self, teachers_folder: Path) -> None:
        """Compare with the teachers' prediction folders, where these are at hand.

        Raises:
            VotesError: If a teacher's label maps changed since.
        """
        for teacher in self.index.teachers:
            folder = PredictionFolder(teachers_folder / teacher)
            if not folder.exists():
                continue
            now = {case: record.output for case, record in folder.manifest().cases.items()}
            mine = {c: r.outputs[teacher] for c, r in self.index.cases.items() if teacher in r.outputs}
            changed = sorted(c for c in mine if now.get(c) != mine[c])
            changed += sorted(set(now) & set(self.index.cases) - set(mine))
            if changed:
                raise VotesError(
                    f"The votes in {self.folder.name} are older than teacher '{teacher}' ({len(changed)} case(s), such "
                    f"as {changed[0]}). Run nnKD_aggregate and nnKD_plan_and_preprocess again."
                )


def sparse_counts(counts: NDArray[np.int64], labels: Sequence[str]) -> dict[str, dict[int, int]]:
    """(L, 2**K) counts as votes.json keeps them: only patterns that occur."""
    rows = zip(labels, counts, strict=True)
    return {label: {int(p): int(row[p]) for p in np.flatnonzero(row)} for label, row in rows}


def _digest(outputs: Mapping[str, str]) -> str:
    return sha256_text(json.dumps(dict(sorted(outputs.items()))))[:16]
