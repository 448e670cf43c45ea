"""Tests of nnkd.preprocessing.folders: which cases are current, and when a record is written."""

from __future__ import annotations

import pytest

from nnkd.errors import DatasetError
from nnkd.preprocessing import folders
from nnkd.preprocessing.folders import CasesFolder


class Counted(CasesFolder):
    """A folder whose cases are made from `source`."""

    source, written = "new", 0

    def origins_of(self, case):
        return {"image 0": self.source + case}

    def adopts(self, case, digest):
        return digest == f"old hash of {case}"

    def write(self):
        self.written += 1


@pytest.fixture
def counted(tmp_path) -> Counted:
    for name in ("a.b2nd", "a_seg.b2nd", "a.pkl", "b.b2nd"):
        (tmp_path / name).touch()
    return Counted(tmp_path, {"a": {"image 0": "newa"}, "b": {"image 0": "newb"}})


def test_a_case_is_done_when_it_is_whole_and_nothing_has_changed(counted):
    assert counted.what_changed("a") is None
    assert counted.what_changed("b") == ""  # not whole
    assert counted.what_changed("c") == ""
    counted.source = "newer"
    assert counted.what_changed("a") == "changed image 0"
    counted.begin(["a"])
    assert counted.what_changed("a") == "nothing says what it was made from"
    assert counted.written == 1


def test_the_one_hash_of_an_earlier_version_is_adopted_or_not(counted):
    counted.inputs["a"] = "old hash of a"
    assert counted.what_changed("a") is None
    assert counted.inputs["a"] == {"image 0": "newa"}
    assert counted.adopted == 1
    counted.inputs["a"] = "another"
    assert counted.what_changed("a") == "an earlier version made it from something else"


@pytest.mark.parametrize("content", ["[1]", '{"a": 3}', "{"])
def test_a_record_that_is_broken_is_one_sentence(tmp_path, content):
    (tmp_path / "x_2d_inputs.json").write_text(content)
    with pytest.raises(DatasetError, match=r"x_2d_inputs\.json"):
        folders.read_inputs(tmp_path / "x_2d")


def test_what_is_gone_from_the_dataset_goes(counted):
    counted.forget_removed(["b"])
    assert [file.name for file in counted.folder.iterdir()] == ["b.b2nd"]
    assert counted.inputs == {"b": {"image 0": "newb"}}


def test_records_are_not_written_after_every_case(counted, monkeypatch):
    counted.save()
    assert counted.written == 0
    counted.save(at_once=True)
    assert counted.written == 1
    monkeypatch.setattr(folders, "SECONDS_BETWEEN_RECORDS", 0)
    counted.save()
    assert counted.written == 2
