"""What a plugin's classes must be. Options of all of them are the keyword-only arguments of `__init__`, with
annotations and defaults: `--set NAME.option=value` is checked and converted against these (`nnkd.plugin.options`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nnkd.errors import NnkdError, RecipeError, SettingError
from nnkd.types import Prompt, TeacherContext, Volume

if TYPE_CHECKING:
    import numpy as np

    from nnkd.boxes.export import BoxGraphs
    from nnkd.data.participants import Participant
    from nnkd.networks.costs import Architecture


class Teacher(ABC):
    """A frozen model, or a classical method, that segments a case. Constructed once, then called case by case.

    Attributes:
        prompt: What `predict` is told per label: nothing, the label's text, or boxes per axial slice.
        channels: Whether the volume has the one channel that the user chose, or all of them; or ("colour") the one, but
            red, green and blue together where these are all channels and the user chose none.
        devices: Where it can compute; one that names only "cpu" is never asked for more.
        costs_only: Names of options that change no answer, as a cache's size: an interrupted run may go on with others.
        no_network: Why there is no network for nnKD_profile to count, as a sentence; empty with `architectures`.
    """

    prompt: ClassVar[Literal["none", "text", "box"]] = "none"
    channels: ClassVar[Literal["one", "all", "colour"]] = "one"
    devices: ClassVar[tuple[str, ...]] = ("cuda", "cpu", "mps")
    costs_only: ClassVar[frozenset[str]] = frozenset()
    no_network: ClassVar[str] = ""

    def __init__(self, context: TeacherContext):
        self.context = context

    @abstractmethod
    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> Mapping[str, np.ndarray]:
        """Segment one case.

        Args:
            volume: The case.
            prompts: By label name; empty for teachers with prompt "none".

        Returns:
            By label name: a bool mask (Z, Y, X), or float probabilities in [0, 1] of that shape (cut at > 0.5). A
            label that is left out is an abstention; an empty mask is an answer ("not here").

        Raises:
            NnkdError: If this case cannot be segmented; the others go on.
        """

    def weights(self) -> Sequence[Mapping[str, str]]:
        """The weight files in use, as {"name", "sha256", "licence"}; for the manifest."""
        return ()

    def inputs(self, case: str) -> Mapping[str, Path]:
        """Files beside the images that the answer for a case is made from, by a name for the manifest. When one of
        them changes, the case is done again.

        Raises:
            NnkdError: If one is missing; the case fails before anything is computed.
        """
        return {}

    @classmethod
    def architectures(cls) -> Sequence[Architecture]:
        """Its networks, for nnKD_profile: with random weights, on inputs of the size they were made for.

        Raises:
            NnkdError: If there is nothing to count; the message says why.
        """
        raise NnkdError(cls.no_network or f"{cls.__name__} does not say what its network is.")

    def notes(self) -> Mapping[str, object]:
        """What the manifest should keep about the case predicted last, as JSON: no absolute path, no person."""
        return {}


class BoxTeacher(Teacher):
    """A teacher prompted by boxes whose image encoder can be shared between labels and students."""

    prompt = "box"

    @abstractmethod
    def encode(self, image: np.ndarray) -> np.ndarray:
        """Embed one slice.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            (channels, h, w) float32 embedding.
        """

    @abstractmethod
    def decode(self, embedding: np.ndarray, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Segment boxes in an embedded slice.

        Args:
            embedding: What `encode` returned.
            boxes: (n, 4) int, rows (y0, x0, y1, x1) in pixels of the slice, upper bounds excluded.
            shape: (H, W) of the slice.

        Returns:
            (n, H, W) float32 probabilities in [0, 1].
        """

    def export_graphs(self) -> BoxGraphs:
        """Its networks, for nnKD_export.

        Raises:
            NnkdError: If they cannot be exported; the message says why.
        """
        raise NnkdError(f"{type(self).__name__} does not say what its networks are, so it cannot be exported.")


class Aggregator(ABC):
    """Turns votes into target probabilities. Every voxelwise rule is a function of which teachers said yes: bit k
    of a vote pattern is teacher k. So a rule is a table per case and label, fitted on how often each pattern occurs.

    Attributes:
        draws_teacher: Whether the loader draws one teacher per sample instead of applying a table.
    """

    draws_teacher: ClassVar[bool] = False

    @abstractmethod
    def table(self, counts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Fit the rule to one case.

        Args:
            counts: (L, 2**K) int64, voxels with each pattern, by label, on the raw grid.
            answers: (K, L) bool, whether teacher k answers for label l; the bit of one that does not is always 0.

        Returns:
            (L, 2**K) float32 in [0, 1]. Rows of labels nobody answers for are ignored by the caller.
        """

    def for_teachers(self, teachers: Sequence[str], labels: Sequence[str]) -> Aggregator:
        """The rule for these teachers and labels; called once before the first case, so that wrong names in options
        are found early. Only rules with options by name need more than the default, which is the rule itself.

        Args:
            teachers: K names, in bit order.
            labels: L names.

        Returns:
            The rule to call `table` of; this one stays as it is.

        Raises:
            NnkdError: If an option names what is not among them.
        """
        return self

    def estimates(self, counts: np.ndarray, answers: np.ndarray) -> Mapping[str, np.ndarray]:
        """What the rule found out about the teachers in one case without ground truth, for reports; by default none.

        Args:
            counts, answers: As for `table`.

        Returns:
            By name, such as "sensitivity": (K, L) float, NaN where nothing is known.
        """
        return {}


class JointAggregator(Aggregator):
    """An aggregator that looks at all labels of a voxel at once, so that no table per label can hold its outcome.
    nnKD_aggregate -o applies it; recipes, which train on one table per label, refuse it, and so do datasets with
    regions, whose labels overlap."""

    def table(self, counts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """There is none.

        Raises:
            SettingError: Always.
        """
        raise SettingError(
            f"The aggregator {type(self).__name__} looks at all labels at once, so a recipe cannot hold it. Write its "
            f"label maps with nnKD_aggregate -i TEACHERS -o OUT, take them in as one more teacher "
            f"(nnKD_predict_teachers -t imported) and train on that one, or choose a rule for each label alone, such "
            f"as staple."
        )

    @abstractmethod
    def joint_table(self, said: np.ndarray, counts: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Fit the rule to one case.

        Args:
            said: (R, K) int64, what the teachers say in one voxel: 0 for none of the labels, 1 for the first label, and
                so on; all combinations that occur, some of them possibly twice. A teacher is never given a label that
                it does not answer for.
            counts: (R,) int64, voxels with each combination, on the raw grid.
            answers: (K, L) bool, whether teacher k answers for label l.

        Returns:
            (R, L) float in [0, 1], each row at most 1 in sum; the rest is background's.
        """

    def joint_estimates(self, said: np.ndarray, counts: np.ndarray, answers: np.ndarray) -> Mapping[str, np.ndarray]:
        """What `estimates` is for other rules; arguments as for `joint_table`."""
        return {}


class Sampler(ABC):
    """Decides which cases form a batch. Free of torch and of images.

    Attributes:
        needs_participants: Whether every training case needs a row in participants.tsv.
    """

    needs_participants: ClassVar[bool] = False

    @abstractmethod
    def batches(
        self, participants: Mapping[str, Participant], batch_size: int, rng: np.random.Generator
    ) -> Iterator[list[str]]:
        """Yield one epoch of batches.

        Args:
            participants: By case identifier, the training cases only. Cases of one person share a participant.
            batch_size: Cases in a batch.
            rng: The only source of randomness.

        Yields:
            `batch_size` case identifiers.

        Raises:
            NnkdError: If no batch satisfies the rule.
        """

    def epoch(
        self, participants: Mapping[str, Participant], batch_size: int, seed: int, number: int
    ) -> Iterator[list[str]]:
        """One epoch of a training: by default `batches` with a generator of its own. Samplers whose epochs depend on
        each other override it, as a function of its arguments alone: every worker of the loader, every rank and a
        continued training call it for themselves and must find the same batches.

        Args:
            participants, batch_size: As for `batches`.
            seed: The training's.
            number: Of the epoch, from 0. A sampler's epoch is one pass over its plan, not nnU-Net's 250 iterations.
        """
        import numpy as np

        return self.batches(participants, batch_size, np.random.default_rng((seed, number)))

    def epoch_length(self, participants: Mapping[str, Participant], batch_size: int) -> int | None:
        """Number of batches where every epoch has the same, so that a continued training need not draw again what it
        has had; None where it is not known: it begins a new epoch then."""
        return None

    def report(self, participants: Mapping[str, Participant], batch_size: int, seed: int) -> Sequence[str]:
        """Sentences for the training's log, made once before the first batch; by default none.

        Raises:
            NnkdError: If no batch satisfies the rule; so this is found out before anything expensive.
        """
        return ()


class WeighingSampler(Sampler):
    """A sampler that also weighs the loss of each case of a batch, and hears it. Only the training's main process
    calls what follows; its loader's workers draw batches with copies."""

    @abstractmethod
    def weights(self, participants: Mapping[str, Participant], cases: Sequence[str]) -> Sequence[float]:
        """Factors of the losses of a batch's cases, about 1 in the mean; the loss is the mean of the products."""

    @abstractmethod
    def update(self, participants: Mapping[str, Participant], cases: Sequence[str], losses: Sequence[float]) -> None:
        """Take note of the losses of a batch (of all ranks together), before weighing."""

    @abstractmethod
    def state_dict(self) -> dict[str, float]:
        """Numbers by name from which `load_state_dict` resumes exactly. They go into checkpoints: names must hold no
        person's values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Resume."""


class AuxiliaryScheduler(ABC):
    """Decides which auxiliary dataset trains along. Plain numbers in, names out.

    A turn is an iteration or an epoch, as the training has it. With `trains_on` "one" each of them goes

        for dataset in scheduler.unscored():
            scheduler.score(dataset, loss, gradient_cosine, gradient_norm, target_norm)  # nothing is trained
        dataset = scheduler.select()
        ...  # train on a batch of the target and one of dataset
        scheduler.update(dataset, loss, gradient_cosine)
        scheduler.trace()  # a line of the training's record

    and its state may be kept and resumed between any two of these calls. With "all" or "none" there is nothing to
    choose: then none of these five is called. Under several processes each has a scheduler of its own, which must be
    told the same numbers.

    Attributes:
        datasets: The names to choose from, in the order they were given.
        trains_on: What a turn trains on beside the target: the one dataset that `select` names, all of them in mixed
            batches, or nothing at all.
    """

    trains_on: ClassVar[Literal["one", "all", "none"]] = "one"

    def __init__(self, datasets: Sequence[str]):
        """Args:
            datasets: Names, each once.

        Raises:
            RecipeError: If a name is there twice, or there is none although the scheduler trains on one or all.
        """
        self.datasets = tuple(datasets)
        doubled = sorted({name for name in self.datasets if self.datasets.count(name) > 1})
        if doubled:
            raise RecipeError(
                f"The auxiliary dataset '{doubled[0]}' is given {self.datasets.count(doubled[0])} times, but each is "
                f"expected once. Leave it out where it repeats."
            )
        if not self.datasets and self.trains_on != "none":
            raise RecipeError(
                f"The auxiliary scheduler {type(self).__name__} got no auxiliary dataset, but expects at least one. "
                f"Name some with --auxiliaries, or train on the target alone with -as none."
            )

    def unscored(self) -> Sequence[str]:
        """Datasets to be scored before the next `select`, in this order; by default none, ever. Those that were scored
        since are left out, so that a training that stopped in between goes on with the rest."""
        return ()

    def score(  # noqa: B027 - optional
        self, dataset: str, loss: float, gradient_cosine: float, gradient_norm: float, target_norm: float
    ) -> None:
        """Take note of what a backward pass over `dataset` gave that trains nothing; by default, nothing.

        Args:
            dataset: One of `unscored()`.
            loss: Its mean loss.
            gradient_cosine: Cosine between its gradient and the target's, in [-1, 1].
            gradient_norm, target_norm: Euclidean norms of both gradients, over the parameters that the cosine is over.
        """

    @abstractmethod
    def select(self) -> str:
        """The dataset to train along in the next turn. Asked again before `update`, it names the same one."""

    @abstractmethod
    def update(self, dataset: str, loss: float, gradient_cosine: float) -> None:
        """Take note of what a turn with `dataset` brought. Numbers that are not finite, as after an overflow in half
        precision, must do no harm.

        Args:
            dataset: What `select` returned.
            loss: Its mean loss.
            gradient_cosine: Cosine between its gradient and the target's, in [-1, 1].
        """

    def trace(self) -> Mapping[str, object]:
        """The last finished turn for the training's record, as JSON; by default, or before the first one, nothing.

        Keys that reports know (`nnkd.auxiliary.turns`): turn (from 1), dataset, loss, cosine (null where they were not
        finite), reward, alpha; by dataset: estimates and bounds that the choice was made by, probabilities, counts of
        turns so far, and scores, each with loss and cosine, since the turn before."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, object]:
        """Numbers, names, lists and dictionaries of them, from which `load_state_dict` resumes to the bit, also after
        they were written as JSON."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume.

        Raises:
            RecipeError: If the state is of other datasets.
        """
