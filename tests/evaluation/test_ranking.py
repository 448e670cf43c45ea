"""Ranking of methods: places by modality and metric, and their mean."""

from __future__ import annotations

import pytest
from scored import CASES, GOOD, LABELS, POOR, folder, scores

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import SettingError
from nnkd.evaluation.ranking import (
    HIDDEN,
    MEAN_PLACE,
    SECONDS,
    check_ranking,
    modalities_of_cases,
    rank_methods,
    ranking_part,
)
from nnkd.types import Participant

SPEC = DatasetSpec({"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0}, "file_ending": ".png"}, "x")
MODALITY = {"a": "CT", "b": "CT", "c": "MR"}


def test_places_come_before_means():
    """A method that is a little better in two modalities beats one that is much better in the one with most cases."""
    steady = folder("steady", {"a": (0.6, 0.6), "b": (0.71, 0.71), "c": (0.71, 0.71)})
    brilliant = folder("brilliant", {"a": (0.99, 0.99), "b": (0.7, 0.7), "c": (0.7, 0.7)})
    found = rank_methods(scores(steady, brilliant), ["DSC"], {"a": "CT", "b": "MR", "c": "US"})
    assert found.means == pytest.approx({"steady": 4 / 3, "brilliant": 5 / 3})
    assert found.final == {"steady": 1, "brilliant": 2}
    assert [(p.modality, p.place) for p in found.of("brilliant")] == [("CT", 1), ("MR", 2), ("US", 2)]


def test_every_metric_counts_the_same_and_is_read_its_way():
    found = rank_methods(scores(folder("poor", POOR), folder("good", GOOD)), ["DSC", "HD", "ASSD"], MODALITY)
    assert found.means == {"good": 1, "poor": 2}
    assert len(found.places) == 2 * 2 * 3
    value = {(p.modality, p.metric): p.value for p in found.of("good")}
    assert value["CT", "DSC"] == pytest.approx((0.85 + 0.9) / 2)
    assert value["MR", "HD"] == pytest.approx((3 + 1) / 2)


def test_equal_folders_share_a_place():
    found = rank_methods(scores(folder("one", GOOD), folder("two", GOOD), folder("poor", POOR)), ["DSC"], MODALITY)
    assert found.final == {"one": 1, "two": 1, "poor": 3}


def test_only_what_all_answer_for_is_ranked():
    """The folder that abstains from the hard label and the hard case gains nothing by it."""
    everything = folder("everything", {"a": (0.8, 0.1), "b": (0.8, 0.1), "c": (0.1, 0.1)})
    easy = folder("easy", {"a": (0.7, 0), "b": (0.7, 0), "c": (0, 0)}, {"a": ["liver"], "b": ["liver"], "c": []})
    found = rank_methods(scores(everything, easy), ["DSC"], dict.fromkeys(CASES, "CT"))
    assert found.labels == ["liver"]
    assert found.final == {"everything": 1, "easy": 2}
    assert {p.cases for p in found.places} == {2}


def test_what_nobody_can_be_compared_in_is_named():
    failing = folder("failing", {"a": (1, 1), "b": (1, 1)})
    failing.failures["c"] = "cannot be read"
    found = rank_methods(scores(failing, folder("good", GOOD)), ["DSC"], MODALITY)
    assert found.not_ranked == [("MR", "DSC")]
    assert {p.modality for p in found.places} == {"CT"}
    assert found.section()["not_ranked"] == ["DSC of MR"]
    nothing = rank_methods(
        scores(folder("a", GOOD, {"a": ["liver"]}), folder("b", GOOD, {"a": ["spleen"]})), ["DSC"], MODALITY
    )
    assert nothing.final == {}
    assert "No ranking" in nothing.lines()[0]


def test_running_time_is_ranked_where_all_manifests_have_it():
    slow, fast = (folder(name, GOOD, dict.fromkeys(CASES, LABELS)) for name in ("slow", "fast"))
    assert rank_methods(scores(slow, fast), [SECONDS], MODALITY).not_ranked == [("CT", SECONDS), ("MR", SECONDS)]
    for case in CASES:
        slow.manifest.cases[case].seconds, fast.manifest.cases[case].seconds = 9.0, 2.0
    assert rank_methods(scores(slow, fast), [SECONDS], MODALITY).final == {"fast": 1, "slow": 2}


def test_modalities_come_from_a_column_or_the_channels():
    people = {case: Participant(case) for case in "ab"}
    assert modalities_of_cases(SPEC, people, None) == {"a": "T1 + T2", "b": "T1 + T2"}
    people["a"] = Participant("a", attributes={"modality": "CT", "scanner": "X"})
    assert modalities_of_cases(SPEC, people, None) == {"a": "CT", "b": "missing"}
    assert set(modalities_of_cases(SPEC, people, "scanner").values()) == {HIDDEN}
    with pytest.raises(SettingError, match=r"--modality is 'field', .* columns with values are modality, scanner"):
        modalities_of_cases(SPEC, people, "field")


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(SettingError, match=r"'VD', which is nothing to rank by. There are: DSC, .*seconds"):
        check_ranking(["DSC", "VD"], 2)
    with pytest.raises(SettingError, match="several folders"):
        check_ranking([], 1)
    check_ranking(["DSC", "seconds"], 2)
    check_ranking(None, 1)
    with pytest.raises(SettingError, match="there is no --rank"):
        check_ranking(None, 2, "site")


def test_with_and_without_a_ranking(tmp_path):
    two = scores(folder("poor", POOR), folder("good", GOOD))
    asked = ranking_part(two, [], MODALITY)
    assert {place.metric for place in asked.places} == {"DSC", "NSD"}
    assert asked.of_folder("good")["place"] == 1
    nothing = ranking_part(two, None, {})
    nothing.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (nothing.key, nothing.of_folder("good"), nothing.section()) == (asked.key, None, None)
    assert nothing.lines() + nothing.failures() == []


def test_the_table_names_the_rules():
    frame = rank_methods(scores(folder("poor", POOR), folder("good", GOOD)), ["DSC"], MODALITY).frame()
    assert len(frame) == 2 * 2 + 2
    assert list(frame[frame.metric == MEAN_PLACE].folder) == ["good", "poor"]
    assert frame.percentile_rule.str.contains("linearly").all()
    assert frame.empty_masks.str.contains("not counted").all()


def test_small_groups_of_people_are_not_ranked():
    """Two people without a sex would be known by what is left, so the next smallest group goes, too."""
    sexes = ["F"] * 6 + ["M"] * 5 + [None] * 2
    people = {f"case{i}": Participant(f"p{i}", sex=sex) for i, sex in enumerate(sexes)}
    groups = modalities_of_cases(SPEC, people, "sex")
    assert [groups[f"case{i}"] for i in (0, 6, 11)] == ["F", HIDDEN, HIDDEN]
    scanners = {case: Participant(p.identifier, attributes={"modality": p.sex or "X"}) for case, p in people.items()}
    assert set(modalities_of_cases(SPEC, scanners, None).values()) == {"F", "M", "X"}


def test_hidden_groups_are_named_without_a_place():
    found = rank_methods(scores(folder("poor", POOR), folder("good", GOOD)), ["DSC"], {**MODALITY, "c": HIDDEN})
    assert {place.modality for place in found.places} == {"CT"}
    assert found.not_ranked == [(HIDDEN, "DSC")]
