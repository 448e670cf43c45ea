"""Tests of nnkd.preprocessing.folders: which cases are current, and when a record is written."""

from __future__ import annotations

import pytest

from nnkd.preprocessing import folders
from nnkd.preprocessing.folders import CasesFolder


class Counted(CasesFolder):
    """A folder whose cases are made from `source`."""

    source, written = "new", 0

    def inputs_of(self, case):
        return self.source + case

    def write(self):
        self.written += 1


@pytest.fixture
def counted(tmp_path) -> Counted:
    for name in ("a.b2nd", "a_seg.b2nd", "a.pkl", "b.b2nd"):
        (tmp_path / name).touch()
    return Counted(tmp_path, {"a": "newa", "b": "newb"})


def test_a_case_is_done_when_it_is_whole_and_nothing_has_changed(counted):
    assert counted.is_done("a")
    assert not counted.is_done("b")
    assert not counted.is_done("c")
    counted.source = "newer"
    assert not counted.is_done("a")


def test_what_is_gone_from_the_dataset_goes(counted):
    counted.forget_removed(["b"])
    assert [file.name for file in counted.folder.iterdir()] == ["b.b2nd"]
    assert counted.inputs == {"b": "newb"}


def test_records_are_not_written_after_every_case(counted, monkeypatch):
    counted.save()
    assert counted.written == 0
    counted.save(at_once=True)
    assert counted.written == 1
    monkeypatch.setattr(folders, "SECONDS_BETWEEN_RECORDS", 0)
    counted.save()
    assert counted.written == 2
