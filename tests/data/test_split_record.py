"""nnkd.data.split_record: what is drawn, and when nothing is. What nnKD_split does with it: tests/steps."""

from __future__ import annotations

from nnkd.data.split_record import Record, Wishes


def test_what_nobody_asks_for_is_not_drawn(dataset):
    before = {file: file.read_bytes() for file in dataset.folder.rglob("*") if file.is_file()}
    record = Record()
    record.draw_test(dataset, {}, Wishes(), set())
    record.draw_labelled(dataset, {}, Wishes(), set())
    assert record == Record()
    assert {file: file.read_bytes() for file in dataset.folder.rglob("*") if file.is_file()} == before
