"""The teachers that vote together: their prediction folders, checked and in bit order."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.dataset import DatasetSpec, ImageFolder, RawDataset
from nnkd.data.origins import Hashes
from nnkd.data.predictions import Lineage, Manifest, PredictionFolder, portable_options, prediction_folders, versions
from nnkd.data.reading.geometry import Grid
from nnkd.errors import BrokenPluginError, NnkdError, PredictionError, UnknownNameError
from nnkd.files import sha256
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.processes import run_all
from nnkd.votes import agreement, bits, consensus
from nnkd.votes.ballots import Ballots

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("nnkd")
KILLED = (
    "A worker process ended without a word while it did '{job[1]}', probably for lack of memory. Run the same command "
    "again with a smaller -np: it continues where it stopped."
)


@dataclass(frozen=True)
class Outcome:
    """What the teachers made of one case.

    Attributes:
        label_map: (Z, Y, X) unsigned, in file order.
        properties: The reader's properties to write it with.
        answered: Labels that some teacher answered for.
        figures: See `nnkd.votes.agreement.figures_of_case`.
        volume_unit: Of the volumes in `figures`: "ml", or "voxels" for images without geometry.
    """

    label_map: NDArray[np.unsignedinteger]
    properties: dict[str, Any]
    answered: list[str]
    figures: dict[str, dict[str, Any]]
    volume_unit: str


@dataclass(frozen=True)
class Panel:
    """The teachers that vote, in bit order.

    Attributes:
        spec: The dataset.
        folders: By name.
        manifests: By name, read once, so that a teacher at work does not change them under our hands.
    """

    spec: DatasetSpec
    folders: Mapping[str, PredictionFolder]
    manifests: Mapping[str, Manifest]

    @classmethod
    def open(cls, source: Path, dataset: RawDataset, chosen: Sequence[str]) -> Panel:
        """Find and check the teachers; see `aggregate`."""
        there = {folder.name: folder for folder in prediction_folders(source)}
        if not there:
            raise PredictionError(
                f"{source.parent.name}/{source.name} holds no teacher's prediction folder yet. "
                f"Run nnKD_predict_teachers -d {dataset.name} -t TEACHER ... first."
            )
        missing = [teacher for teacher in chosen if teacher not in there]
        if missing:
            raise UnknownNameError(
                f"There is no teacher '{missing[0]}' in {source.parent.name}/{source.name}; there are: "
                f"{', '.join(there)}. Run nnKD_predict_teachers for it, or correct -t."
            )
        folders = {teacher: there[teacher] for teacher in (dict.fromkeys(chosen) or there)}
        bits.bit_dtype(len(folders))
        manifests = {teacher: folder.manifest() for teacher, folder in folders.items()}
        for teacher, manifest in manifests.items():
            check_labels(teacher, manifest, dataset.spec)
        return cls(dataset.spec, folders, manifests)

    @property
    def names(self) -> list[str]:
        """In bit order."""
        return list(self.folders)

    def inputs(self, case: str) -> dict[str, str]:
        """Hashes of what the case's votes are made from."""
        return consensus.inputs_of(self.manifests, case, self.spec)

    def answers(self, case: str) -> NDArray[np.bool_]:
        """(K, L) bool."""
        records = {teacher: manifest.cases.get(case) for teacher, manifest in self.manifests.items()}
        return bits.answers_matrix(records, self.spec.labels)

    def of_other_images(self, cases: Sequence[str], images: ImageFolder) -> dict[str, str]:
        """Cases whose image is another one since a teacher segmented it, and in a sentence what to do.

        Args:
            cases: Those to look at.
            images: What they are now.
        """
        hashes, found = Hashes(images.folder.parent), {}
        for case in cases:
            made = {teacher: m.cases[case].inputs for teacher, m in self.manifests.items() if case in m.cases}
            now = {file.name: hashes.of(file) for file in images.listing.cases.get(case, ()) if made}
            changed = [f for f, digest in now.items() if any(i.get(f, digest) != digest for i in made.values())]
            if changed:
                late = [t for t, inputs in made.items() if inputs.get(changed[0], now[changed[0]]) != now[changed[0]]]
                found[case] = (
                    f"'{changed[0]}' changed since {', '.join(late)} segmented it. Run nnKD_predict_teachers again, or "
                    f"take what these teachers say away."
                )
        hashes.save()
        return found

    def read(
        self, case: str, image: tuple[Grid, dict[str, Any]] | None
    ) -> tuple[list[NDArray[np.unsignedinteger]], Grid, dict[str, Any]]:
        """Label maps of a case, on one grid; empty ones for teachers that did not segment it.

        Args:
            case: Its identifier.
            image: The image's grid and properties; None: the first teacher's.

        Raises:
            DatasetError: If a file is missing or unreadable.
            PredictionError: If a file is not the one its manifest lists, or the grids differ.
        """
        found: dict[str, NDArray[np.unsignedinteger]] = {}
        for teacher, folder in self.folders.items():
            record = self.manifests[teacher].cases.get(case)
            if record is None:
                continue
            file = folder.file(case, self.spec.file_ending)
            label_map, grid, properties = self.spec.read_label_map(file)
            if sha256(file) != record.output:
                raise PredictionError(
                    f"'{file.name}' of teacher '{teacher}' is not the file its manifest lists: it was edited or "
                    f"damaged. Delete it and run that teacher again; corrections belong into labelsTr."
                )
            image = (grid, properties) if image is None else image
            difference = grid.difference(image[0])
            if difference:
                raise PredictionError(
                    f"'{file.name}' of teacher '{teacher}' lies on another grid than the case: {difference}. "
                    f"Run that teacher again with --overwrite."
                )
            found[teacher] = label_map.astype(np.uint8 if max(self.spec.values) < 256 else np.uint16)
        if image is None or not found:
            raise PredictionError(f"No teacher has segmented '{case}'.")
        empty: NDArray[np.unsignedinteger] = np.zeros(image[0].shape, dtype=np.uint8)
        return [found.get(teacher, empty) for teacher in self.folders], *image

    def vote(self, case: str, aggregator: Aggregator, images: ImageFolder | None) -> Outcome:
        """Aggregate one case.

        Args:
            case: Its identifier.
            aggregator: The rule.
            images: The cases' images, whose grids count; None: the first teacher's grid does.

        Raises:
            NnkdError: If no teacher answered for it, a file is not as it should be, or the aggregator fails.
        """
        answers = self.answers(case)
        if not answers.any():
            raise PredictionError(self._nobody(case, images is not None))
        image = None if images is None else images.read(case)[1:]
        maps, grid, properties = self.read(case, image)
        volume = float(np.prod(grid.spacing)) / 1000 if grid.in_world else 1.0
        label_map, figures = self.consensus(maps, answers, aggregator, volume)
        return Outcome(
            label_map=label_map,
            properties=properties,
            answered=[label for index, label in enumerate(self.spec.labels) if answers[:, index].any()],
            figures=figures,
            volume_unit="ml" if grid.in_world else "voxels",
        )

    def consensus(
        self,
        maps: Sequence[NDArray[np.unsignedinteger]],
        answers: NDArray[np.bool_],
        aggregator: Aggregator,
        voxel_volume: float,
    ) -> tuple[NDArray[np.unsignedinteger], dict[str, dict[str, Any]]]:
        """What label maps in memory become.

        Args:
            maps: K arrays (Z, Y, X), uint8 or uint16, in bit order.
            answers: (K, L) bool.
            aggregator: The rule.
            voxel_volume: Of one voxel, in the unit of the figures.

        Returns:
            (Z, Y, X) the label map, and its figures (see `nnkd.votes.agreement.figures_of_case`).

        Raises:
            NnkdError: If the label maps do not fit together, or the aggregator fails.
        """
        ballots = Ballots.of(maps)
        counts = bits.clear_abstentions(ballots.count_patterns(self.spec), answers)
        if isinstance(aggregator, JointAggregator):
            integers, chosen, estimates = self._decide_jointly(aggregator, ballots, counts, answers)
        else:
            integers, chosen, estimates = self._decide_by_label(aggregator, ballots, counts, answers)
        figures = agreement.figures_of_case(
            counts, answers, chosen, self.names, self.spec.labels, voxel_volume, estimates, aggregator.estimates_from
        )
        return ballots.paint(integers), figures

    def _decide_by_label(
        self, aggregator: Aggregator, ballots: Ballots, counts: NDArray[np.int64], answers: NDArray[np.bool_]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """(R,) the integer of each ballot; (L, 2**K) voxels of each pattern with a yes; estimates by name."""
        table = bits.fit(aggregator, counts, answers)
        integers = bits.apply_to_label_maps(ballots.columns(), table, self.spec)
        estimates = bits.found_out(aggregator, answers, lambda: aggregator.estimates(counts, answers))
        return integers, counts * (table > 0.5), estimates

    def _decide_jointly(
        self, aggregator: JointAggregator, ballots: Ballots, counts: NDArray[np.int64], answers: NDArray[np.bool_]
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """As `_decide_by_label`."""
        case = ballots.said(self.spec, answers), ballots.counts, answers
        integers = bits.joint_label_map(bits.fit_joint(aggregator, *case), self.spec)
        estimates = bits.found_out(aggregator, answers, lambda: aggregator.joint_estimates(*case))
        chosen = bits.clear_abstentions(ballots.count_chosen(integers, self.spec), answers)
        return integers, chosen, estimates

    def _nobody(self, case: str, in_training: bool) -> str:
        reasons = [f"{t}: {m.failures[case]}" for t, m in self.manifests.items() if case in m.failures]
        why = f" ({'; '.join(reasons)})" if reasons else ""
        or_else = f", put a manual {case}{self.spec.file_ending} into labelsTr, or take the image out"
        return f"No teacher answered for it{why}. Run nnKD_predict_teachers again{or_else if in_training else ''}."

    def note_abstentions(self, cases: Sequence[str]) -> None:
        """Say in the log which teachers have nothing for some of the cases, or do not know some of the labels."""
        for teacher, manifest in self.manifests.items():
            new = [label for label in self.spec.labels if label not in manifest.labels]
            if new:
                log.info("%s ran before dataset.json named %s: it abstains from that.", teacher, ", ".join(new))
            absent = [case for case in cases if case not in manifest.cases]
            if absent:
                some = ", ".join(absent[:3]) + (" ..." if len(absent) > 3 else "")
                log.info("%s has no output for %d case(s) (%s): it abstains there.", teacher, len(absent), some)

    def outcomes(
        self, cases: Sequence[str], aggregator: Aggregator, images: ImageFolder | None, processes: int = 1
    ) -> Iterator[tuple[str, Outcome | str]]:
        """Aggregate several cases.

        Args:
            cases: Their identifiers.
            aggregator, images: See `vote`.
            processes: How many to do at once; 1: in this process.

        Yields:
            Each case, in order, and its outcome, or in one sentence why there is none.

        Raises:
            BrokenPluginError: If the aggregator cannot be handed to a worker process.
            NnkdError: If a worker process died.
        """
        if processes > 1:
            _check_portable(aggregator)
        jobs = [(self._only(case), case) for case in cases]
        work = partial(_outcome, aggregator=aggregator, images=images)
        for (_, case), outcome in run_all(work, jobs, processes, killed=KILLED, in_order=True):
            yield case, outcome

    def _only(self, case: str) -> Panel:
        """The same without the records of other cases, which no worker process needs."""
        manifests = {
            teacher: manifest.model_copy(
                update={
                    "cases": {case: manifest.cases[case]} if case in manifest.cases else {},
                    "failures": {case: manifest.failures[case]} if case in manifest.failures else {},
                }
            )
            for teacher, manifest in self.manifests.items()
        }
        return Panel(self.spec, self.folders, manifests)

    def header(self, name: str, made_by: str, options: Mapping[str, Any]) -> Manifest:
        """Manifest, without cases, of what these teachers vote for: with all their licences, and with ground truth if
        one of them was told of it.

        Args:
            name: The folder's name.
            made_by: The aggregator's name.
            options: The aggregator's options.
        """
        lineage: dict[str, Lineage] = {}
        for teacher, manifest in self.manifests.items():
            for model in manifest.lineage or [Lineage(name=teacher)]:
                lineage[model.model_dump_json()] = model
        return Manifest(
            kind="aggregation",
            name=name,
            made_by=made_by,
            versions=versions(),
            options={**portable_options(options), "teachers": self.names},
            labels={label: list(integers) for label, integers in self.spec.labels.items()},
            file_ending=self.spec.file_ending,
            lineage=list(lineage.values()),
            ground_truth=any(manifest.ground_truth for manifest in self.manifests.values()),
        )


def check_labels(teacher: str, manifest: Manifest, spec: DatasetSpec) -> None:
    """Refuse a teacher whose label maps mean something else than the dataset's: integers were exchanged, labels
    renamed or taken away, or regions made of others, after it ran. From labels that came since, it abstains.

    Args:
        teacher: Its name.
        manifest: What it wrote.
        spec: The dataset, as it is now.

    Raises:
        PredictionError: With what it wrote, and what is expected.
    """
    todo = f"Run that teacher again with --overwrite, or take its folder '{teacher}' away."
    for label, integers in manifest.labels.items():
        if label not in spec.labels:
            raise PredictionError(
                f"Teacher '{teacher}' wrote {label} as {integers}, but dataset.json of {spec.name} has no such label "
                f"(any more); it has {', '.join(spec.labels)}. {todo}"
            )
        if list(spec.labels[label]) != list(integers):
            raise PredictionError(
                f"Teacher '{teacher}' wrote {label} as {integers}, but dataset.json of {spec.name} has "
                f"{list(spec.labels[label])}. {todo}"
            )
    if manifest.file_ending != spec.file_ending:
        raise PredictionError(
            f"Teacher '{teacher}' wrote {manifest.file_ending} files, but dataset.json of {spec.name} has "
            f"{spec.file_ending}. {todo}"
        )


def _outcome(job: tuple[Panel, str], aggregator: Aggregator, images: ImageFolder | None) -> Outcome | str:
    panel, case = job
    try:
        return panel.vote(case, aggregator, images)
    except NnkdError as error:
        return str(error)


def _check_portable(aggregator: Aggregator) -> None:
    try:
        pickle.dumps(aggregator)
    except Exception as error:  # a plugin's own __reduce__ raises whatever it likes
        raise BrokenPluginError(
            f"The aggregator {type(aggregator).__name__} cannot be handed to another process ({error}). Use -np 1."
        ) from error
