"""Statistics: means, clustered intervals, paired differences, ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.evaluation.intervals import Bootstrap, mean, paired_difference, ranks

BOOTSTRAP = Bootstrap(1000, 0)


def own(cases):
    return {case: case for case in cases}


def drawn(n, seed=0, centre=0.8):
    rng = np.random.default_rng(seed)
    return {f"c{i:03d}": float(v) for i, v in enumerate(rng.normal(centre, 0.1, n))}


def test_a_mean_over_labels_weighs_labels_equally():
    labels = [{"a": 1.0, "b": 0.0}, {"a": 1.0}]
    assert mean(labels, own("ab"), BOOTSTRAP).value == pytest.approx(0.75)


def test_nothing_counted_is_no_mean():
    assert mean([{}, {}], {}, BOOTSTRAP) is None
    assert paired_difference([{"a": 1.0}], [{}], own("a"), BOOTSTRAP) is None


def test_the_interval_is_the_textbooks():
    values = drawn(60)
    estimate = mean([values], own(values), Bootstrap(4000, 1))
    half = 1.96 * np.std(list(values.values())) / np.sqrt(60)
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.12)
    assert estimate.value - estimate.low == pytest.approx(half, rel=0.12)


def test_two_scans_of_a_person_are_not_two_people():
    values = drawn(30)
    doubled = {**values, **{f"{case}_again": value for case, value in values.items()}}
    person = {case: case.removesuffix("_again") for case in doubled}
    once, clustered = (mean([v], person, BOOTSTRAP) for v in (values, doubled))
    naive = mean([doubled], own(doubled), BOOTSTRAP)
    assert (clustered.n_cases, clustered.n_participants) == (60, 30)
    assert (clustered.low, clustered.high) == pytest.approx((once.low, once.high))
    assert naive.high - naive.low < 0.8 * (clustered.high - clustered.low)


def test_pairing_removes_what_cases_share():
    first = drawn(40)
    second = {case: value - 0.01 for case, value in first.items()}
    estimate = paired_difference([first], [second], own(first), BOOTSTRAP)
    assert estimate.value == pytest.approx(0.01)
    assert estimate.high - estimate.low < 1e-9


def test_a_difference_is_the_one_between_the_tables_cells():
    first, second = [drawn(20, 1), drawn(15, 2)], [drawn(20, 3, 0.7), drawn(18, 4, 0.6)]
    estimate = paired_difference(first, second, own(first[0]), BOOTSTRAP)
    cells = [mean(labels, own(first[0]), BOOTSTRAP).value for labels in (first, second)]
    assert estimate.value == pytest.approx(cells[0] - cells[1])
    assert estimate.low < estimate.value < estimate.high


def test_one_participant_has_no_interval():
    estimate = mean([{"a": 0.5, "b": 0.7}], {"a": "p", "b": "p"}, BOOTSTRAP)
    assert (estimate.low, estimate.high, estimate.n_cases, estimate.n_participants) == (None, None, 2, 1)


def test_no_resamples_no_interval():
    assert mean([drawn(5)], own(drawn(5)), Bootstrap(0)).low is None


def test_a_rare_label_still_has_an_interval():
    common, rare = drawn(30), dict(list(drawn(30, 5, 0.3).items())[:2])
    estimate = mean([common, rare], own(common), BOOTSTRAP)
    assert np.isfinite([estimate.low, estimate.high]).all()


def test_the_seed_decides():
    values = drawn(20)
    first, again, other = (mean([values], own(values), Bootstrap(200, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=12))
def test_intervals_lie_within_the_values(values):
    estimate = mean([values], own(values), Bootstrap(50, 0))
    assert min(values.values()) - 1e-9 <= estimate.value <= max(values.values()) + 1e-9
    if estimate.low is not None:
        assert min(values.values()) - 1e-9 <= estimate.low <= estimate.high <= max(values.values()) + 1e-9


def test_ranks_and_ties():
    assert ranks({"a": 0.9, "b": 0.8, "c": 0.90004}, True) == {"a": 1, "c": 1, "b": 3}
    assert ranks({"a": 5.0, "b": 3.0}, False) == {"b": 1, "a": 2}


def test_one_participant_has_no_interval_but_a_reason():
    values, bootstrap = {"a": 0.5, "b": 0.7}, Bootstrap(100)
    one = mean([values], {"a": "p", "b": "p"}, bootstrap)
    assert (one.low, one.high, one.n_cases) == (None, None, 2)
    assert one.without_interval == "no interval: one participant"
    two = mean([values], {"a": "p", "b": "q"}, bootstrap)
    assert two.low is not None
    assert two.without_interval == ""
