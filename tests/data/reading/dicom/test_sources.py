from __future__ import annotations

import json

import pytest

from nnkd.data.reading.dicom import sources
from nnkd.data.reading.dicom.sources import ChannelSource
from nnkd.errors import DatasetError

CHANNELS = (
    ChannelSource("1.1", "1.2", "1.3", "MR", ("1.9", "1.8"), (1, 1), "anna/T1"),
    ChannelSource("1.1", "1.4", "", "MR", ("1.7", "1.7"), (2, 1)),
)


def test_what_was_written_comes_back_in_order(tmp_path):
    sources.write(tmp_path, "case_0001", CHANNELS)
    assert sources.read(tmp_path, "case_0001") == CHANNELS
    stored = json.loads((tmp_path / "private" / "dicom" / "case_0001.json").read_text(encoding="utf-8"))
    assert stored["channels"][0]["instances"] == ["1.9", "1.8"]


def test_a_case_without_sources_and_a_changed_file(tmp_path):
    with pytest.raises(DatasetError, match=r"'x' of .* has no sources in private/dicom"):
        sources.read(tmp_path, "x")
    sources.file_of(tmp_path, "x").parent.mkdir(parents=True)
    for text in ("{}", '{"channels": [{"study": "1"}]}', "[]"):
        sources.file_of(tmp_path, "x").write_text(text, encoding="utf-8")
        with pytest.raises(DatasetError, match="was changed"):
            sources.read(tmp_path, "x")
