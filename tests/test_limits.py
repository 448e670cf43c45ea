"""Tests of nnkd.limits."""

from __future__ import annotations

import pytest

from nnkd import limits
from nnkd.errors import SettingError


def test_a_variable_replaces_a_limit(monkeypatch):
    assert limits.JSON.value == 64
    monkeypatch.setenv("NNKD_MAX_JSON", "128")
    assert limits.JSON.value == 128


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan"])
def test_a_variable_that_is_no_number_is_said(monkeypatch, given):
    monkeypatch.setenv("NNKD_MAX_JSON", given)
    with pytest.raises(SettingError, match="NNKD_MAX_JSON"):
        assert limits.JSON.value


def test_what_does_not_fit_says_what_raises_the_limit(monkeypatch):
    monkeypatch.setenv("NNKD_MAX_MEMORY", "4")
    assert limits.memory() == 4 * limits.GIB
    assert "NNKD_MAX_MEMORY" in limits.too_large(5 * limits.GIB)
    assert limits.too_large(3 * limits.GIB) == ""
    assert "NNKD_MAX_RATIO" in limits.too_large(3 * limits.GIB, packed=1e6)
    assert limits.too_large(3 * limits.GIB, packed=1e9) == ""
    assert limits.too_large(1 * limits.GIB, packed=1e6) == ""  # an empty label map


def test_without_the_variable_it_is_what_the_machine_has(monkeypatch):
    monkeypatch.delenv("NNKD_MAX_MEMORY", raising=False)
    assert 0 < limits.memory() < 2**50
