from __future__ import annotations

import io
from pathlib import Path

import dicom_toys as toys
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.data.reading.dicom.objects import Header, Other, kind_of_name, look, quiet, shown


def content(**tags) -> bytes:
    ds = toys.base(toys.CT, "1.2.3", "CT", toys.noise()[0])
    toys.set_all(ds, {"SeriesDescription": "Thorax", **tags})
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


WHOLE = content()


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=12), st.integers(0, len(WHOLE))
)
def test_no_bytes_stop_a_scan(tmp_path_factory, changes, length):
    file = tmp_path_factory.getbasetemp() / "IM0001"
    broken = bytearray(WHOLE)
    for place, value in changes:
        broken[place] = value
    file.write_bytes(broken[:length])
    with quiet():
        found = look(file)
    assert isinstance(found, Header | Other)
    if isinstance(found, Other) and length > 300 and not changes:
        assert not found.understood  # a slice that was cut short is never taken for a text beside it


def test_a_values_text_never_gets_into_the_reason(tmp_path):
    file = tmp_path / "IM0001"
    file.write_bytes(content(PatientName="Meier^Anna").replace(b"PN", b"PX"))
    with quiet():
        found = look(file)
    assert "Meier" not in repr(found)


def test_a_picture_is_not_even_opened(tmp_path):
    found = look(tmp_path / "is_not_there.png")
    assert isinstance(found, Other)
    assert (found.reason, found.understood) == ("image that is no DICOM", True)
    missing = look(tmp_path / "is_not_there.dcm")
    assert isinstance(missing, Other)
    assert (missing.reason, missing.understood) == ("cannot be opened (No such file or directory)", False)


def test_dicom_with_analyzes_ending_is_dicom(tmp_path):
    (tmp_path / "a.img").write_bytes(WHOLE)
    assert isinstance(look(tmp_path / "a.img"), Header)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("IM1", ""), ("1.2.840.113", ""), ("a.DCM", ".dcm"), ("a.b.ima", ".ima"), ("LICENSE.txt", ".txt")],
)
def test_endings(name, kind):
    assert kind_of_name(Path(name)) == kind


def test_names_that_are_no_text_can_be_shown():
    assert shown("M\udcfcller") == "M\ufffdller"
    assert shown("Müller") == "Müller"
