"""Names of cases: what nnU-Net's own files, Windows and macOS cannot tell apart is refused."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.data import case_names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x_seg", "ends with _seg"),
        ("x_SEG", "ends with _seg"),
        ("x.b2nd", "ends as the files do"),
        ("x.pkl", "ends as the files do"),
        ("x ", "a space or a dot"),
        (" x", "begins with a space"),
        ("x.", "a space or a dot"),
        ("con", "a device on Windows"),
        ("LPT1.left", "a device on Windows"),
        ("a:b", "holds characters"),
        ("a\nb", "holds characters"),
        ("com0", "a device on Windows"),
        ("NUL .x", "a device on Windows"),
        ("x" * 201, "200 bytes"),
    ],
)
def test_names_that_are_refused(name, says):
    assert says in case_names.problem(name)
    assert list(case_names.problems(["fine", name])) == [name]


@pytest.mark.parametrize("name", ["x", "x_0000", "x_seg_1", "seg", "console", "com", "BraTS-GLI-00000-000", "a.b", "ü"])
def test_names_that_are_fine(name):
    assert case_names.problems([name]) == {}


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=6))
def test_spellings_of_one_name_are_told(name):
    others = {name.upper(), name.lower(), unicodedata.normalize("NFD", name)} - {name}
    others = {other for other in others if not case_names.problem(other)}
    if case_names.problem(name):
        return
    found = case_names.problems([name, *others])
    same = [other for other in others if other.casefold() == name.casefold() or unicodedata.normalize(
        "NFC", other) == unicodedata.normalize("NFC", name)]  # fmt: skip
    assert len(found) >= len(same)


def test_how_two_spellings_differ_is_said():
    accents = case_names.problems(["M\u00fcller", "Mu\u0308ller"])
    assert "in the way in which accents are stored" in next(iter(accents.values()))
    assert "only in capitals" in case_names.problems(["A1", "a1"])["a1"]
