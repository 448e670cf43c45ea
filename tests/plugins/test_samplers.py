"""The uniform sampler."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkd_basic.samplers import Uniform

from nnkd.errors import ParticipantsError
from nnkd.types import Participant


def cohort(number: int) -> dict[str, Participant]:
    return {f"case{n}": Participant(f"p{n}") for n in range(number)}


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_an_epoch_is_one_pass(number: int, batch_size: int, seed: int):
    cases = cohort(number)
    batches = list(Uniform().batches(cases, batch_size, np.random.default_rng(seed)))
    assert len(batches) == -(-number // batch_size)
    assert {len(batch) for batch in batches} == {batch_size}
    drawn = [case for batch in batches for case in batch]
    assert set(drawn[:number]) == set(cases)
    counts = Counter(drawn)
    assert max(counts.values()) - min(counts.values()) <= 1
    if batch_size <= number:
        assert all(len(set(batch)) == batch_size for batch in batches)
    backwards = dict(reversed(cases.items()))
    assert list(Uniform().batches(backwards, batch_size, np.random.default_rng(seed))) == batches


def test_order_is_uniform():
    rng = np.random.default_rng(0)
    first = Counter(next(Uniform().batches(cohort(5), 1, rng))[0] for _ in range(5000))
    assert all(abs(count - 1000) < 5 * np.sqrt(800) for count in first.values())
    assert len(first) == 5


def test_no_case():
    with pytest.raises(ParticipantsError, match="no training case"):
        next(Uniform().batches({}, 2, np.random.default_rng(0)))
