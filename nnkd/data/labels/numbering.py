"""The integers of a dataset's labels: what they mean, and whether networks can say them."""

from __future__ import annotations

from collections.abc import Mapping

from nnkd.data.dataset import DatasetSpec
from nnkd.data.origins import of_settings
from nnkd.errors import DatasetError

LARGEST = 32767  # nnU-Net keeps label maps as int16


def meaning_of_labels(spec: DatasetSpec) -> str:
    """Digest of what the integers of a dataset's label maps mean: another one if integers are exchanged, or labels are
    renamed, added or taken away. The ignore label, which nobody predicts, does not count."""
    order = spec.json.get("regions_class_order") if spec.has_regions else None
    return of_settings([[[name, list(values)] for name, values in spec.labels.items()], order])


def check_label_numbers(spec: DatasetSpec) -> None:
    """Refuse labels that a network would learn or answer as others.

    The label of nnU-Net's n-th output is written as n, whatever integer dataset.json has; nnU-Net itself looks at this
    only with --verify_dataset_integrity. Regions are written as regions_class_order says.

    Raises:
        DatasetError: In one sentence, with the numbers that are expected.
    """
    problem = numbering_problem(spec)
    if problem:
        raise DatasetError(f"dataset.json of {spec.name} {problem}")


def numbering_problem(spec: DatasetSpec) -> str:
    """What is wrong with the numbers, as the rest of a sentence; empty if nothing is."""
    given = spec.json["labels"]
    if given.get("background") != 0 or isinstance(given.get("background"), bool):
        return "has no label 'background' of the integer 0, which nnU-Net needs. Add it."
    problem = _regions_problem(spec) if spec.has_regions else _order_problem(spec.labels)
    if problem:
        return problem
    largest = max(value for values in spec.labels.values() for value in values)
    if largest > LARGEST:
        return f"has the integer {largest}, but label maps hold at most {LARGEST}. Number the labels anew."
    if spec.ignore_label is not None and spec.ignore_label != largest + 1:
        return (
            f"has the ignore label {spec.ignore_label}, but nnU-Net wants it right above all others: {largest + 1}. "
            f"Correct it, there and in the label maps."
        )
    return ""


def _order_problem(labels: Mapping[str, tuple[int, ...]]) -> str:
    numbers = [values[0] for values in labels.values()]
    expected = list(range(1, len(numbers) + 1))
    if numbers == expected:
        return ""
    twice = next((n for n in numbers if numbers.count(n) > 1), None)
    if twice is not None:
        same = " and ".join(repr(label) for label, values in labels.items() if values[0] == twice)
        return f"gives {same} the same integer {twice}. Give each its own, or make one label of them."
    wrong = next((label, n, k) for (label, (n,)), k in zip(labels.items(), expected, strict=True) if n != k)
    return (
        f"numbers its labels {', '.join(map(str, numbers))}, but a network's outputs are written as "
        f"{', '.join(map(str, expected))}: '{wrong[0]}' would be predicted as {wrong[2]} instead of {wrong[1]}. Number "
        f"them so, in dataset.json, in all label maps, and in what teachers predicted (run them again)."
    )


def _regions_problem(spec: DatasetSpec) -> str:
    order, regions = spec.json.get("regions_class_order"), spec.labels
    if not isinstance(order, list) or len(order) != len(regions):
        return (
            f"has {len(regions)} regions but regions_class_order={order}. nnU-Net needs one integer per region there."
        )
    names = list(regions)
    for place, (name, integer) in enumerate(zip(names, order, strict=True)):
        values = set(regions[name])
        if min(values) < 1:
            return f"makes the region '{name}' of {sorted(values)}, but only integers from 1 on can be foreground."
        if integer not in values:
            return (
                f"has regions_class_order={order}, so that '{name}' would be written as {integer}, which it is not "
                f"made of ({sorted(values)}). Name one of its own integers there."
            )
        cover = next((other for other in names[place + 1 :] if values <= set(regions[other])), None)
        if cover is not None:
            return (
                f"lists the region '{name}' before '{cover}', which holds it and would be written over it. Put the "
                f"larger region first, in labels and in regions_class_order."
            )
    return ""
