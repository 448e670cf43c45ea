"""Tests of nnkd.warned, and of those who pass warnings on."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio import reader_writer_registry

from nnkd import warned
from nnkd.data.reading import readers
from nnkd.inference.predictor import quiet
from nnkd.teachers.external import Program


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(warned, "_told", set())


def test_warnings_are_said_once_and_without_folders(caplog):
    text = """\
Predicting case
/home/me/env/lib/a.py:12: UserWarning: The image /data/secret/scan 1.nii.gz has a strange header
  warnings.warn("The image ...")
/home/me/a.py:1: FutureWarning: torch.load will change
WARNING! Not all input images have the same origin!
"""
    warned.pass_on_warnings("nnU-Net", text)
    warned.pass_on_warnings("nnU-Net", text)
    assert [record.getMessage() for record in caplog.records] == [
        "nnU-Net warns: a.py:12: UserWarning: The image scan 1.nii.gz has a strange header",
        "nnU-Net warns: WARNING! Not all input images have the same origin!",
    ]


def test_what_nnunet_says_while_it_is_quiet(caplog):
    with quiet():
        print("Warning: this is about your data")
        print("and this is talk")
    assert [record.getMessage() for record in caplog.records] == ["nnU-Net warns: Warning: this is about your data"]


def test_what_another_program_warns_of_reaches_the_user(caplog, tmp_path):
    code = "import warnings; print('talk'); warnings.warn('the scan is odd')"
    Program("Mine").run([sys.executable, "-c", code], tmp_path)
    assert caplog.text.count("Mine warns: ") == 1
    assert "UserWarning: the scan is odd" in caplog.text
    assert "talk" not in caplog.text


@pytest.mark.parametrize(("name", "ending"), [("SimpleITKIO", ".mha"), ("NibabelIO", ".nii.gz")])
def test_what_nnunets_readers_warn_of_reaches_the_user(caplog, tmp_path, name, ending):
    """A hair apart: the same grid to nnkd, and to nnU-Net a reason for a word."""
    files = [tmp_path / f"c_000{k}{ending}" for k in range(2)]
    for k, file in enumerate(files):
        image = sitk.GetImageFromArray(np.ones((3, 4, 5), np.float32))
        image.SetOrigin((0.05 * k, 0, 0))
        sitk.WriteImage(image, str(file))
    reader = readers.reader_of({"file_ending": ending, "overwrite_image_reader_writer": name}, "toy")
    for _ in range(2):
        reader.read_images(files)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"nnU-Net's reader of 'c_0000{ending}' warns: WARNING! Not all input images have the same")
    assert str(tmp_path) not in caplog.text


def test_tracebacks_of_readers_alone_are_left_out(capsys):
    theirs = reader_writer_registry.traceback
    with contextlib.suppress(KeyError), readers.without_tracebacks():
        reader_writer_registry.traceback.print_exc()
        print("a warning", file=sys.stderr)
        raise KeyError
    assert capsys.readouterr().err == "a warning\n"
    assert reader_writer_registry.traceback is theirs
    assert not isinstance(theirs, SimpleNamespace)
