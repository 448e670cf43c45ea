"""nnkd.teachers.foreign."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnkd.errors import SettingError
from nnkd.teachers.foreign import read_map

LABELS = ("liver", "kidney")


def test_single_values_become_lists(tmp_path):
    assert read_map(None, LABELS, "toy") is None
    expected = {"liver": [5], "kidney": ["left", "right"]}
    assert read_map({"liver": 5, "kidney": ["left", "right"]}, LABELS, "toy") == expected
    file = tmp_path / "map.json"
    file.write_text('{"liver": 5, "kidney": ["left", "right"]}')
    assert read_map(file, LABELS, "toy") == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lung": 1}, "^The toy teacher's map has lung, but the dataset's labels are liver, kidney"),
        ({}, "^The toy teacher's map is empty"),
        ({"liver": []}, "empty list or the value 0"),
        ({"liver": [1, 0]}, "empty list or the value 0"),
        (Path("gone.json"), "^The map 'gone.json' cannot be read"),
    ],
)
def test_maps_that_say_nothing(given, said):
    with pytest.raises(SettingError, match=said):
        read_map(given, LABELS, "toy")


@pytest.mark.parametrize("text", ["{", '{"liver": 1.5}', "[1]"])
def test_files_that_are_no_map(tmp_path, text):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(SettingError, match=r"'map\.json' must be JSON such as"):
        read_map(tmp_path / "map.json", LABELS, "toy")
