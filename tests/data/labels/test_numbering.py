"""Tests of nnkd.data.labels.numbering, against what nnU-Net's own label manager writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnkd.data.dataset import DatasetSpec
from nnkd.data.labels.numbering import check_label_numbers, meaning_of_labels, numbering_problem
from nnkd.errors import DatasetError


def spec_of(labels: dict, **more) -> DatasetSpec:
    labels = labels if "background" in labels else {"background": 0, **labels}
    return DatasetSpec({"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz", **more}, "Toy")


@pytest.mark.parametrize(
    ("labels", "more", "words"),
    [
        ({"liver": 1, "spleen": 5}, {}, r"1, 5.*written as 1, 2: 'spleen' would be predicted as 2 instead of 5"),
        ({"liver": 2, "spleen": 3}, {}, r"'liver' would be predicted as 1 instead of 2"),
        ({"organ": 255}, {}, "'organ' would be predicted as 1 instead of 255"),
        ({"liver": 1, "hepar": 1}, {}, "'liver' and 'hepar' the same integer 1"),
        ({"liver": 1, "ignore": 5}, {}, "ignore label 5.*right above all others: 2"),
        ({"liver": 2, "spleen": 3, "ignore": 1}, {}, "'liver' would be predicted as 1"),
        ({"background": 1, "liver": 2}, {}, "no label 'background' of the integer 0"),
        ({"whole": [1, 2], "core": 2}, {}, "2 regions but regions_class_order=None"),
        ({"whole": [1, 2], "core": 2}, {"regions_class_order": [2, 1]}, "'core' would be written as 1"),
        ({"core": 2, "whole": [1, 2]}, {"regions_class_order": [2, 1]}, "'core' before 'whole', which holds it"),
        ({"whole": [0, 1, 2], "core": 2}, {"regions_class_order": [1, 2]}, "only integers from 1 on"),
        ({"whole": [1, 70000]}, {"regions_class_order": [1]}, "70000, but label maps hold at most 32767"),
    ],
)
def test_what_a_network_cannot_say_is_refused(labels, more, words):
    with pytest.raises(DatasetError, match=f"dataset.json of Toy .*{words}"):
        check_label_numbers(spec_of(labels, **more))


@pytest.mark.parametrize(
    ("labels", "more"),
    [
        ({"spleen": 2, "liver": 1}, {}),
        ({"liver": 1, "spleen": 2, "ignore": 3}, {}),
        ({"whole": [1, 2, 4], "core": [1, 4], "rim": 4}, {"regions_class_order": [2, 1, 4]}),  # BraTS's own integers
        ({"spleen": [5, 5]}, {"regions_class_order": [5]}),  # one label of several, as --per_label learns it
    ],
)
def test_what_it_can_say_comes_back(labels, more):
    """A region, or label, is where nnU-Net's decision writes one of its integers."""
    spec = spec_of(labels, **more)
    check_label_numbers(spec)
    manager = LabelManager(dict(spec.json["labels"]), more.get("regions_class_order"))
    answers = np.eye(len(spec.labels)) * 10 - 5  # voxel k: output k alone says yes
    logits = answers if spec.has_regions else np.vstack([np.zeros(len(spec.labels)), answers])
    written = manager.convert_logits_to_segmentation(logits[:, None].astype(np.float32))[0]
    for voxel, name in enumerate(spec.labels):
        assert written[voxel] in spec.labels[name]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_exactly_those_numbers_pass_that_an_arg_max_gives_back(numbers):
    spec = spec_of({f"l{place}": number for place, number in enumerate(numbers)})
    heads = len(set(numbers))  # nnU-Net has an output for each integer that occurs, lowest first
    right = len(numbers) == heads and all(n == 1 + sorted(set(numbers)).index(n) for n in numbers)
    assert (numbering_problem(spec) == "") == right


def test_the_meaning_follows_integers_names_and_regions():
    base = meaning_of_labels(spec_of({"liver": 1, "spleen": 2}))
    assert meaning_of_labels(spec_of({"spleen": 2, "liver": 1, "ignore": 3})) == base
    others = [
        ({"liver": 2, "spleen": 1}, {}),
        ({"Liver": 1, "spleen": 2}, {}),
        ({"liver": 1}, {}),
        ({"liver": 1, "spleen": 2, "kidney": 3}, {}),
        ({"liver": [1, 2], "spleen": 2}, {"regions_class_order": [1, 2]}),
        ({"liver": [1, 2, 3], "spleen": 2}, {"regions_class_order": [1, 2]}),
        ({"liver": [1, 2, 3], "spleen": 2}, {"regions_class_order": [3, 2]}),
    ]
    assert len({base, *(meaning_of_labels(spec_of(labels, **more)) for labels, more in others)}) == len(others) + 1
