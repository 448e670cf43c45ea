"""Tests of nnkd.votes.panel."""

from __future__ import annotations

import numpy as np
import pytest
from nnkd_basic.aggregators import Majority
from toy import toy_teacher

from nnkd import Aggregator
from nnkd.errors import BrokenPluginError, PredictionError
from nnkd.votes.panel import Panel


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
