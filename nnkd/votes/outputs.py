"""Where the label maps go that teachers' votes become: labelsTr, or a prediction folder of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.data.predictions import PredictionFolder
from nnkd.replacing import Written
from nnkd.votes import consensus
from nnkd.votes.agreement import AGREEMENT
from nnkd.votes.panel import Outcome, Panel


class Target(Protocol):
    """Where label maps go.

    Attributes:
        panel: Whose votes they are made from.
        title: What to call it.
        agreement_file: Where the figures go.
        images: The cases' images, whose grids count; None: the first teacher's grid does.
    """

    @property
    def panel(self) -> Panel: ...

    @property
    def title(self) -> str: ...

    @property
    def agreement_file(self) -> Path: ...

    @property
    def images(self) -> ImageFolder | None: ...

    def cases(self) -> list[str]: ...

    def manual(self) -> list[str]: ...

    def is_done(self, case: str, inputs: Mapping[str, str]) -> bool: ...

    def write(self, case: str, outcome: Outcome) -> bool: ...

    def fail(self, case: str, reason: str) -> None: ...


class LabelsTr:
    """labelsTr and consensus.json."""

    def __init__(self, dataset: RawDataset, panel: Panel, replace: bool = False):
        self.dataset, self.panel, self.replace = dataset, panel, replace
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

    @property
    def pictures(self) -> Written:
        """Where `review` draws."""
        return Written(self.dataset.folder / "review", self.replace)

    def review(self, disagreement: Mapping[str, float], number: int) -> tuple[list[Path], list[str]]:
        """Draw overlays of the cases in which teachers differ most, in the dataset's folder review; remove those that
        an earlier call drew of others.

        Args:
            disagreement: By case.
            number: How many to draw at most.

        Returns:
            The pictures, those of cases in which teachers differ most first, and lines that tell of them.
        """
        from nnkd.data.overlays import draw_overlays

        spec, written = self.panel.spec, self.pictures
        folder = written.folder
        differ = [case for case in disagreement if disagreement[case] > 0]
        chosen = sorted(differ, key=lambda case: (-disagreement[case], case))[:number]
        written.remove(f"{case}.png" for case in set(disagreement) - set(chosen))
        names = _names_by_integer(spec)
        for case in tqdm(chosen, desc="review", unit="case"):
            volume, orientation, _ = self.images.volume(case)
            maps = {"consensus": spec.read_label_map(self.dataset.label_file(case))[0]}
            for teacher, prediction in self.panel.folders.items():
                if case in self.panel.manifests[teacher].cases:
                    maps[teacher] = prediction.read(spec, case)
            turned = {title: orientation.to_lps(label_map) for title, label_map in maps.items()}
            with written.writing(f"{case}.png") as temporary:
                draw_overlays(volume.data, turned, temporary, label_names=names, spacing=volume.spacing)
        if not chosen:
            return [], ["review: the teachers agree in every case, so there is nothing to draw"]
        lines = [f"  review/{case}.png  {disagreement[case]:.3f}" for case in chosen]
        return [folder / f"{case}.png" for case in chosen], [
            "review: where teachers differ most (1 - mean pairwise DSC)",
            *lines,
            f"To correct one, edit labelsTr/{chosen[0]}{spec.file_ending} and save it in place: from then on it counts "
            f"as manual and is never overwritten.",
        ]


class Folder:
    """A prediction folder of kind "aggregation"."""

    def __init__(
        self, spec: DatasetSpec, panel: Panel, output: Path, name: str, options: Mapping[str, Any], overwrite: bool,
        replace: bool = False,
    ):  # fmt: skip
        self.spec, self.panel, self.folder = spec, panel, PredictionFolder(output, replace=replace)
        self.title = output.name
        self.agreement_file = output / AGREEMENT
        self.images = None
        header = panel.header(output.name, name, options)
        found = self.folder.check(header) if self.folder.exists() and not overwrite else header
        todo = [case for case in self.cases() if not self.folder.is_done(found, case, panel.inputs(case))]
        self.folder.check_replacing(todo, spec.file_ending)
        self.found = self.folder.begin(header, overwrite)

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


def _names_by_integer(spec: DatasetSpec) -> dict[int, str]:
    if spec.has_regions:
        return dict(zip(spec.json["regions_class_order"], spec.labels, strict=True))
    return {integers[0]: label for label, integers in spec.labels.items()}
