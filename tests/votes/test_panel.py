"""Tests of nnkd.votes.panel."""

from __future__ import annotations

import numpy as np
import pytest
from nnkd_basic.aggregators import Majority
from toy import toy_teacher

from nnkd import Aggregator
from nnkd.data.dataset import DatasetSpec
from nnkd.errors import BrokenPluginError, PredictionError
from nnkd.votes.panel import Panel, check_labels, teachers_of


@pytest.fixture
def panel(dataset) -> Panel:
    for k, name in enumerate(("b", "a", "c")):
        toy_teacher(dataset, name, shift=k, cases=["toy_000", "toy_001", "toy_002"] if name != "c" else ["toy_000"])
    return Panel.open(dataset.teachers_folder(), dataset, [])


def test_bits_are_in_the_order_asked_for(dataset, panel):
    assert panel.names == ["a", "b", "c"]
    assert Panel.open(dataset.teachers_folder(), dataset, ["c", "a", "c"]).names == ["c", "a"]
    np.testing.assert_array_equal(panel.answers("toy_001"), [[True, True], [True, True], [False, False]])


def test_an_outcome(dataset, panel):
    outcome = panel.vote("toy_001", Majority(), dataset.images())
    assert outcome.label_map.dtype == np.uint8
    assert outcome.answered == ["liver", "spleen"]
    assert outcome.volume_unit == "ml"
    assert set(outcome.figures["liver"]["volume"]) == {"a", "b"}
    with pytest.raises(PredictionError, match=r"No teacher answered.*put a manual toy_003\.nii\.gz"):
        panel.vote("toy_003", Majority(), dataset.images())
    with pytest.raises(PredictionError, match=r"nnKD_predict_teachers again\.$"):
        panel.vote("toy_003", Majority(), None)


@pytest.mark.heavy
def test_several_processes_give_what_one_gives(dataset, panel):
    cases = dataset.images().cases()
    alone = dict(panel.outcomes(cases, Majority(), dataset.images()))
    together = dict(panel.outcomes(cases, Majority(), dataset.images(), processes=2))
    assert list(together) == cases
    assert together["toy_003"] == alone["toy_003"]
    for case in cases[:3]:
        np.testing.assert_array_equal(together[case].label_map, alone[case].label_map)
        assert together[case].figures == alone[case].figures


def test_an_aggregator_that_does_not_travel_is_named(dataset, panel):
    class Local(Aggregator):
        def table(self, counts, answers):
            return np.zeros(counts.shape)

    with pytest.raises(BrokenPluginError, match=r"Local cannot be handed to another process.*-np 1"):
        next(panel.outcomes(["toy_000"], Local(), None, processes=2))


REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3]}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"liver": 1, "spleen": 2}, {"liver": 2, "spleen": 1}, r"wrote liver as \[1\].* has \[2\]\. Run that teacher"),
        ({"liver": 1, "spleen": 2}, {"hepar": 1, "spleen": 2}, r"liver as \[1\].*no such label.* has hepar, spleen"),
        ({"liver": 1, "spleen": 2}, {"liver": 1}, r"spleen as \[2\].*no such label"),
        ({"liver": 1, "spleen": 2}, {"liver": 1, "ignore": 2}, r"spleen as \[2\].*no such label"),
        ({"whole": 1, "core": 2}, REGIONS, r"whole as \[1\].* has \[1, 2, 3\]"),
        (REGIONS, {**REGIONS, "core": [3]}, r"core as \[2, 3\].* has \[3\]"),
        ({"liver": 1, "spleen": 2}, {"liver": 1, "spleen": 2, "kidney": 3, "ignore": 4}, ""),
        ({"liver": 1, "spleen": 2}, {"spleen": 2, "liver": 1}, ""),
    ],
)
def test_teachers_of_other_labels_are_refused(dataset, before, now, words):
    """Whatever reads teachersTr: nnKD_aggregate, and nnKD_plan_and_preprocess for its votes."""

    def spec_of(labels):
        more = {"regions_class_order": [1, 2]} if "whole" in labels else {}
        return DatasetSpec({**dataset.spec.json, "labels": {"background": 0, **labels}, **more}, "Toy")

    manifest = toy_teacher(dataset, "one").manifest()
    manifest.labels = {label: list(integers) for label, integers in spec_of(before).labels.items()}
    if not words:
        check_labels("one", manifest, spec_of(now))
        return
    with pytest.raises(PredictionError, match=f"Teacher 'one' wrote {words.removeprefix('wrote ')}"):
        check_labels("one", manifest, spec_of(now))


def test_every_teacher_of_a_dataset_is_checked(dataset):
    for name in ("one", "two"):
        toy_teacher(dataset, name)
    assert list(teachers_of(dataset)) == ["one", "two"]
    manifest = toy_teacher(dataset, "two").manifest_file
    manifest.write_text(manifest.read_text().replace('"spleen": [', '"milt": ['))
    with pytest.raises(PredictionError, match="Teacher 'two' wrote milt"):
        teachers_of(dataset)
