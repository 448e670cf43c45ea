"""Tests of nnkd.teachers.embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnkd.teachers.embeddings import EmbeddingCache


def image(value: int) -> np.ndarray:
    return np.full((4, 5, 3), value, dtype=np.uint8)


def embedding(value: int) -> torch.Tensor:
    return torch.full((2, 3, 3), float(value))  # 72 bytes


def test_what_was_kept_comes_back():
    cache = EmbeddingCache(1000)
    cache.put(image(1), embedding(1))
    assert torch.equal(cache.get(image(1)), embedding(1))
    assert cache.get(image(2)) is None
    assert cache.get(image(1).reshape(5, 4, 3)) is None  # the same bytes, another shape


def test_a_part_of_a_batch_does_not_keep_the_batch():
    cache = EmbeddingCache(1000)
    batch = torch.zeros(50, 2, 3, 3)
    cache.put(image(1), batch[3])
    assert cache.get(image(1)).untyped_storage().nbytes() == 72


def test_what_is_too_large_or_unwanted_is_not_kept():
    for limit in (0, 71):
        cache = EmbeddingCache(limit)
        cache.put(image(1), embedding(1))
        assert (cache.get(image(1)), cache.size) == (None, 0)


def test_what_was_used_last_stays():
    cache = EmbeddingCache(2 * 72)
    cache.put(image(1), embedding(1))
    cache.put(image(2), embedding(2))
    cache.get(image(1))
    cache.put(image(3), embedding(3))
    assert [cache.get(image(i)) is not None for i in (1, 2, 3)] == [True, False, True]


@pytest.mark.heavy
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5))), st.integers(0, 400))
def test_memory_stays_bounded_and_answers_right(steps, limit):
    cache = EmbeddingCache(limit)
    for put, value in steps:
        if put:
            cache.put(image(value), embedding(value))
        else:
            found = cache.get(image(value))
            assert found is None or torch.equal(found, embedding(value))
        assert cache.size == sum(kept.nbytes for kept in cache._kept.values()) <= limit
