"""Tests of nnkd.votes.panel."""

from __future__ import annotations

import numpy as np
import pytest
from nnkd_basic.aggregators import Majority
from nnkd_basic.multilabel_staple import MultilabelStaple
from nnkd_basic.staple import Staple
from nnkd_basic.weighted import Weighted
from toy import toy_teacher

from nnkd import Aggregator
from nnkd.data.dataset import DatasetSpec
from nnkd.errors import BrokenPluginError, PredictionError
from nnkd.votes import agreement
from nnkd.votes.panel import Panel, check_labels


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
    assert Panel.open(dataset.teachers_folder(), dataset, []).names == ["one", "two"]
    manifest = toy_teacher(dataset, "two").manifest_file
    manifest.write_text(manifest.read_text().replace('"spleen": [', '"milt": ['))
    with pytest.raises(PredictionError, match="Teacher 'two' wrote milt"):
        Panel.open(dataset.teachers_folder(), dataset, [])


@pytest.mark.parametrize("rule", [Staple(), MultilabelStaple(), Weighted()])
def test_what_too_few_teachers_or_no_voxel_tell_is_absent_with_its_reason(dataset, rule):
    """Of two that differ nobody can tell which is right; the spleen, which the third does not know, has two."""
    for name, lost, answers in (("a", 0.3, None), ("b", 0.2, None), ("c", 0.1, ["liver"])):
        toy_teacher(dataset, name, flip_share=lost, answers=answers, seed=len(name) + int(100 * lost))
    figures = Panel.open(dataset.teachers_folder(), dataset, []).vote("toy_001", rule, None).figures
    for name, found in figures["liver"]["estimates"].items():
        assert None not in found.values()
        assert figures["spleen"]["estimates"][name] == {"a": None, "b": None}
        assert figures["spleen"]["not_estimated"][name] == "2 teachers answer, and 3 are needed"
    assert figures["liver"]["not_estimated"] == {}
    summary = agreement.summarise([figures], ["a", "b", "c"], dataset.spec.labels)
    assert summary["spleen"]["absent"] == [
        [name, "2 teachers answer, and 3 are needed", 1] for name in found_in(figures)
    ]
    text = agreement.lines(summary, "ml")
    for name in found_in(figures):
        assert f"  no {name} in 1 case(s): 2 teachers answer, and 3 are needed" in text
    two = Panel.open(dataset.teachers_folder(), dataset, ["a", "b"]).vote("toy_001", rule, None).figures
    assert {value for found in two["liver"]["estimates"].values() for value in found.values()} == {None}
    (alone,) = (
        Panel.open(dataset.teachers_folder(), dataset, ["a"])
        .vote("toy_001", rule, None)
        .figures["liver"]["dsc"]
        .values()
    )
    assert alone is None  # its own mask is the consensus: 1 would say nothing


def found_in(figures) -> list[str]:
    return list(figures["liver"]["estimates"])


def test_nothing_found_is_a_reason_too(dataset):
    for name in "abc":
        toy_teacher(dataset, name)
    panel = Panel.open(dataset.teachers_folder(), dataset, [])
    nothing = [np.zeros((2, 3, 4), np.uint8)] * 3
    figures = panel.consensus(nothing, np.ones((3, 2), bool), Staple(), 1.0)[1]
    assert figures["liver"]["not_estimated"] == {"sensitivity": "no voxel tells"}


def test_two_teachers_weigh_the_same_unless_the_user_weighs_them(dataset):
    """Their majority is what both say, so that its DSC would give the whole vote to the smaller mask."""
    truth, _, properties = dataset.spec.read_label_map(dataset.folder / "truth" / "toy_001.nii.gz")
    small = np.where(np.arange(truth.shape[2]) < 7, truth, 0)
    for name, label_map in (("large", truth), ("small", small)):
        folder = toy_teacher(dataset, name)
        folder.write(dataset.spec, "toy_001", label_map, properties, inputs={}, answers=["liver", "spleen"])
    panel = Panel.open(dataset.teachers_folder(), dataset, [])
    outcome = panel.vote("toy_001", Weighted(), None)
    np.testing.assert_array_equal(outcome.label_map, np.where(truth == small, truth, 0))  # a tie is no
    given = Weighted(weights={"large": 3}).for_teachers(panel.names, ["liver", "spleen"])
    outcome = panel.vote("toy_001", given, None)
    np.testing.assert_array_equal(outcome.label_map, truth)
    assert outcome.figures["liver"]["estimates"] == {"weight": {"large": 0.75, "small": 0.25}}
