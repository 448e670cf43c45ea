"""Tests of nnkd.votes.agreement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.errors import ReplacingError
from nnkd.votes import agreement, bits
from nnkd.votes.agreement import AgreementFile


def dsc(a: np.ndarray, b: np.ndarray) -> float:
    total = a.sum() + b.sum()
    return 2 * (a & b).sum() / total if total else np.nan


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_dsc_from_counts_is_dsc_from_voxels(k, seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((k, 2, 40)) < rng.choice([0.0, 0.1, 0.6], size=(k, 2, 1))
    answers = rng.random((k, 2)) < 0.8
    masks &= answers[..., None]
    packed = sum(masks[teacher].astype(np.uint8) << teacher for teacher in range(k))
    counts = bits.count_patterns(packed, k)
    yes = rng.random((2, 1 << k)) < 0.5
    pairs = agreement.pairwise_dsc(counts, answers)
    with_consensus = agreement.dsc_with_consensus(counts, answers, counts * yes)
    for label in range(2):
        consensus = yes[label][packed[label]]
        for i in range(k):
            expected = dsc(masks[i, label], consensus) if answers[i, label] else np.nan
            assert with_consensus[i, label] == pytest.approx(expected, nan_ok=True)
            for j in range(k):
                both = answers[i, label] and answers[j, label]
                expected = dsc(masks[i, label], masks[j, label]) if both else np.nan
                assert pairs[label, i, j] == pytest.approx(expected, nan_ok=True)


def test_ties_are_among_those_who_answer():
    answers = np.array([[True, True], [True, True], [True, False]])
    tied = agreement.tied_patterns(answers)
    assert not tied[0].any()
    np.testing.assert_array_equal(np.flatnonzero(tied[1]), [0b001, 0b010, 0b101, 0b110])


def a_case(both: int, only_a: int, only_b: int, **estimates: np.ndarray) -> dict:
    counts = np.array([[100, only_a, only_b, both]])
    chosen = counts * np.array([[0, 0, 0, 1]])
    answers = np.ones((2, 1), dtype=bool)
    return agreement.figures_of_case(counts, answers, chosen, ["a", "b"], ["liver"], 0.5, estimates)


def test_figures_of_a_case_and_of_several():
    one, empty = a_case(both=6, only_a=2, only_b=0), a_case(0, 0, 0)
    liver = one["liver"]
    assert liver["volume"] == {"a": 4.0, "b": 3.0}
    assert liver["dsc"] == {"a": pytest.approx(12 / 14), "b": 1.0}
    assert liver["pairs"] == [["a", "b", pytest.approx(12 / 14)]]
    assert (liver["ties"], liver["voted"]) == (2, 8)
    assert empty["liver"]["pairs"] == [["a", "b", None]]
    assert agreement.disagreement(one) == pytest.approx(2 / 14)
    assert agreement.disagreement(empty) == 0
    summary = agreement.summarise([one, empty], ["a", "b"], ["liver"])["liver"]
    assert summary["teachers"]["a"] == {"cases": 2, "mean_volume": 2.0, "mean_dsc": pytest.approx(12 / 14)}
    assert summary["tie_share"] == 0.25
    text = "\n".join(agreement.lines({"liver": summary}, "ml"))
    assert "ties in 25.0 %" in text
    assert "0.857" in text


def test_estimates_are_shown_as_such():
    some = a_case(6, 2, 0, sensitivity=np.array([[0.9], [0.7]]), weight=np.array([[0.5], [np.nan]]))
    other = a_case(6, 2, 0, sensitivity=np.array([[0.8], [np.nan]]), weight=np.array([[0.5], [np.nan]]))
    assert some["liver"]["estimates"] == {"sensitivity": {"a": 0.9, "b": 0.7}, "weight": {"a": 0.5, "b": None}}
    assert "estimates" not in a_case(6, 2, 0)["liver"]
    summary = agreement.summarise([some, other, a_case(6, 2, 0)], ["a", "b"], ["liver"])
    assert summary["liver"]["estimates"] == {
        "sensitivity": {"a": pytest.approx(0.85), "b": pytest.approx(0.7)},
        "weight": {"a": 0.5, "b": None},
    }
    text = agreement.lines(summary, "ml")
    where = text.index("  estimated without ground truth, means over cases")
    assert text[where + 1].split() == ["teacher", "sensitivity", "weight"]
    assert [line.split() for line in text[where + 2 :]] == [["a", "0.8500", "0.5000"], ["b", "0.7000", "-"]]


def test_figures_are_kept_only_for_the_same_rule_and_inputs(tmp_path):
    file, made_by = tmp_path / "agreement.json", {"aggregator": "majority", "options": {"list": (1, 2)}}
    figures = AgreementFile(file, made_by)
    figures.add("toy", {"a/toy": "1"}, a_case(6, 2, 0))
    figures.save({})
    again = AgreementFile(file, made_by)
    assert again.has("toy", {"a/toy": "1"})
    assert again.cases == figures.cases
    assert not again.has("toy", {"a/toy": "2"})
    assert AgreementFile(file, {**made_by, "aggregator": "mean"}).cases == {}
    for broken in ('{"schema_version": 0}', "{"):
        file.write_text(broken)
        assert AgreementFile(file, made_by).cases == {}
    for foreign in ("[1]", '{"kappa": 0.9}'):
        file.write_text(foreign)
        with pytest.raises(ReplacingError, match="is none of nnkd's"):
            AgreementFile(file, made_by)
