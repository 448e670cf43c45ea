"""A plugin for nnkd: a teacher that thresholds the image, and an aggregator that asks for a number of votes."""

from nnkd import Aggregator, Entry, NnkdError, Teacher, hookimpl


@hookimpl
def nnkd_register_teachers():
    """Plain strings: nnKD_plugins lists them without importing what the classes need."""
    return [
        Entry(
            name="threshold",
            load="nnkd_example:Threshold",
            summary="the largest connected part of the image between two intensities",
            source="textbook",
            licence="Apache-2.0",
        )
    ]


@hookimpl
def nnkd_register_aggregators():
    """Rules from votes to targets."""
    return [
        Entry(
            name="at_least",
            load="nnkd_example:AtLeast",
            summary="yes where at least so many teachers say yes",
            source="textbook",
            licence="Apache-2.0",
        )
    ]


class Threshold(Teacher):
    """Segments one label as the largest connected part of the image between two intensities."""

    def __init__(self, context, *, label: str | None = None, low: float = 40.0, high: float = 400.0):
        """Options are keyword-only, annotated and have defaults: `--set threshold.low=20` sets one.

        Args:
            context: The labels that are asked for, the device, the dataset.
            label: The label to answer for; the first of the dataset if not given.
            low, high: Intensities that belong to it, in the image's units (HU in CT).
        """
        super().__init__(context)
        self.label = label or context.labels[0]
        self.low, self.high = low, high
        if self.label not in context.labels:
            raise NnkdError(f"threshold.label is '{label}', but the dataset has {', '.join(context.labels)}.")

    def predict(self, volume, prompts):
        """Labels that are left out are abstentions. An empty mask is an answer: "not here"."""
        from scipy import ndimage

        image = volume.data[0]  # (Z, Y, X): the channel that the user chose
        parts, _ = ndimage.label((image >= self.low) & (image <= self.high))
        sizes = ndimage.sum_labels(parts > 0, parts, index=range(1, parts.max() + 1))
        return {self.label: parts == sizes.argmax() + 1 if parts.any() else parts > 0}


class AtLeast(Aggregator):
    """1 where at least `number` teachers say yes, or all that answer where fewer answer; else 0."""

    def __init__(self, *, number: int = 2):
        self.number = number

    def table(self, counts, answers):
        """One row a label, one column a vote pattern: bit k of the column's index is teacher k's yes."""
        import numpy as np

        yes = np.array([pattern.bit_count() for pattern in range(counts.shape[1])])
        needed = np.minimum(self.number, answers.sum(axis=0))
        return (yes >= needed[:, None]).astype(np.float32)
