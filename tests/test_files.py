"""Tests of nnkd.files."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import subprocess
import sys

import pytest

from nnkd import files
from nnkd.errors import FileError, NnkdError, SettingError
from nnkd.files import for_spreadsheet, from_spreadsheet


def test_what_was_written_replaces_the_old_file(tmp_path):
    target = tmp_path / "new" / "case.nii.gz"
    for text in ("old", "new"):
        with files.atomic(target) as temporary:
            assert temporary.name.startswith(".")
            assert temporary.name.endswith(".nii.gz")
            temporary.write_text(text)
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


class BrokenOffError(Exception):
    """Anything that happens in the middle."""


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (BrokenOffError(), BrokenOffError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (NnkdError("no"), NnkdError),
        (OSError(errno.ENOSPC, "No space left on device"), NnkdError),
    ],
    ids=["error", "interrupt", "own", "disk full"],
)
def test_an_error_in_the_middle_leaves_the_old_file_alone(tmp_path, error, seen):
    target = tmp_path / "file.txt"
    target.write_text("old")

    def write_half():
        with files.atomic(target) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(seen):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_said_in_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(NnkdError, match=r"'list\.json' could not be written \(No space left on device\)"):
        files.write_json(tmp_path / "list.json", [1])
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_writing_leaves_nothing_that_counts(tmp_path):
    target = tmp_path / "case.nii.gz"
    target.write_text("old")
    code = (
        "import os, sys, pathlib; from nnkd.files import atomic\n"
        "with atomic(pathlib.Path(sys.argv[1])) as t:\n    t.write_text('ha'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert target.read_text() == "old"
    assert [p for p in tmp_path.iterdir() if files.is_visible(p)] == [target]
    assert len(list(tmp_path.iterdir())) == 2
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


def test_json_comes_back(tmp_path):
    content = {"ä": [1, 2.5, None], "b": {"c": "d"}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json") == content


def test_json_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(FileError, match=r"'a\.json' is missing"):
        files.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b'{"a": \xff')
    with pytest.raises(FileError, match="no valid JSON"):
        files.read_json(tmp_path / "a.json")


def test_hashes(tmp_path):
    content = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with open(tmp_path / "a", "rb") as file:  # Python 3.10's way
        assert files._sha256(file) == hashlib.sha256(content).hexdigest()
    assert files.sha256_text("ä") == hashlib.sha256("ä".encode()).hexdigest()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.b.nii.gz", ("a.b", ".nii.gz")),
        ("A.NII.GZ", ("A", ".NII.GZ")),
        ("a.b.mha", ("a.b", ".mha")),
        ("a", ("a", "")),
    ],
)
def test_endings_of_two_parts_stay_whole(name, parts):
    assert files.split_ending(name) == parts


@pytest.mark.parametrize(
    ("content", "says"), [("{", "no valid JSON"), ("[1]", "holds a list"), (None, "cannot be read")]
)
def test_a_users_json_that_is_none_is_one_sentence(tmp_path, content, says):
    file = tmp_path / "boxes.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingError, match=says) as caught:
        files.read_object(file, "boxes", "{...}")
    assert str(tmp_path) not in str(caught.value)


def test_what_was_left_of_one_file_goes_alone(tmp_path):
    """While other processes write there: of a case that is known to be nobody's."""
    names = [f".writing-0123456789ab-{name}" for name in ("toy_1.nii.gz", "toy_11.nii.gz", "a.json")]
    for name in names:
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path, of="toy_1")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[1:])


def test_names_that_are_no_text_come_back_from_json(tmp_path):
    name = os.fsdecode(b"M\xfcller \xc3\xbc")
    files.write_json(tmp_path / "a.json", {name: [name]})
    assert files.read_json(tmp_path / "a.json") == {name: [name]}
    assert "ü" in (tmp_path / "a.json").read_bytes().decode("utf-8")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"[" * 100_000, "within each other"),
        (b"[" * 100_000 + b"]" * 100_000, "within each other"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "within each other"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
        (b'{"liver": 1, "liver": 2}', "names 'liver' twice"),
        (b'{"a": Infinity}', "Infinity, which is no number"),
        (b'{"a": 1e999}', "too large a number"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"a": "\xff"}', "can't decode"),
        (b'{"a": 1,}', "Illegal trailing comma|Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
    ],
)
def test_json_that_is_not_what_it_must_be_is_one_sentence(tmp_path, content, says):
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        files.load_json(file)
    with pytest.raises(FileError, match=says) as read:
        files.read_json(file)
    with pytest.raises(SettingError, match=says) as given:
        files.read_object(file, "boxes", "{...}")
    for error in (caught, read, given):
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400


def test_json_as_windows_and_nnunet_write_it(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": [1, -2.5, 1e3]}')
    assert files.load_json(file) == {"a": [1, -2.5, 1000.0]}
    file.write_bytes(b'{"mean": NaN}')
    assert math.isnan(files.read_json(file)["mean"])
    with pytest.raises(ValueError, match="NaN, which is no number"):
        files.load_json(file)


def test_json_over_the_limit_names_what_raises_it(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_text('{"a": "' + "x" * (1 << 20) + '"}')
    monkeypatch.setenv("NNKD_MAX_JSON", "0.5")
    with pytest.raises(FileError, match=r"larger than 0\.5 MiB; the variable NNKD_MAX_JSON"):
        files.read_json(file)
    monkeypatch.setenv("NNKD_MAX_JSON", "2")
    assert len(files.read_json(file)["a"]) == 1 << 20


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "@SUM(1)", "-2+3+cmd|' !A0'", "--help", "\tx", "\rx"])
def test_formulas_are_text_to_spreadsheets_and_come_back(text):
    assert for_spreadsheet(text) == f"'{text}"
    assert from_spreadsheet(for_spreadsheet(text)) == text


@pytest.mark.parametrize("text", ["liver", "", "-", "-1.5", "+2e-3", "-inf", "'quoted'", "a=b"])
def test_other_cells_stay(text):
    assert for_spreadsheet(text) == text == from_spreadsheet(text)
