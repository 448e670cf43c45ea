"""Tests of nnkd.paths."""

from __future__ import annotations

import os
from pathlib import PurePosixPath, PureWindowsPath

import hypothesis
import pytest
from hypothesis import strategies as st

from nnkd import paths
from nnkd.data import case_names
from nnkd.errors import DatasetError, FolderError, UnknownNameError


@pytest.mark.parametrize("room", paths.ROOMS)
@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(monkeypatch, room, value):
    monkeypatch.delenv(room, raising=False)
    if value is not None:
        monkeypatch.setenv(room, value)
    with pytest.raises(FolderError, match=f"{room} is not set"):
        paths.room(room)


@pytest.mark.parametrize("room", paths.ROOMS)
def test_a_dataset_is_found_by_id_in_each_room(nnunet_folders, room):
    (nnunet_folders / room / "Dataset007_Seven").mkdir()
    (nnunet_folders / room / "Dataset0070_Other").mkdir()
    for given in (7, "7", "007", "Dataset007_Seven"):
        assert paths.dataset_name(given) == "Dataset007_Seven"


def test_ids_of_four_digits(nnunet_folders):
    (nnunet_folders / "nnUNet_raw" / "Dataset1001_Big").mkdir()
    (nnunet_folders / "nnUNet_raw" / "Dataset100_Small").mkdir()
    assert paths.dataset_name(1001) == "Dataset1001_Big"
    assert paths.dataset_name(100) == "Dataset100_Small"


def test_an_unknown_id_is_answered_with_what_is_there(nnunet_folders):
    with pytest.raises(UnknownNameError, match="There are none yet"):
        paths.dataset_name(5)
    (nnunet_folders / "nnUNet_raw" / "Dataset007_Seven").mkdir()
    with pytest.raises(UnknownNameError, match="There are: Dataset007_Seven"):
        paths.dataset_name(5)


def test_an_id_with_two_names_is_refused(nnunet_folders):
    (nnunet_folders / "nnUNet_raw" / "Dataset007_Seven").mkdir()
    (nnunet_folders / "nnUNet_results" / "Dataset007_Sept").mkdir()
    with pytest.raises(DatasetError, match="Dataset007_Sept, Dataset007_Seven"):
        paths.dataset_name(7)


@pytest.mark.parametrize("bad", ["seven", "Dataset7_Seven", "Dataset007", "Dataset007_../x", "-7", ""])
def test_what_is_no_dataset_is_refused(nnunet_folders, bad):
    with pytest.raises(DatasetError, match="dataset"):
        paths.dataset_name(bad)


def test_a_missing_folder_says_which_command_makes_it(nnunet_folders):
    (nnunet_folders / "nnUNet_raw" / "Dataset007_Seven").mkdir()
    assert paths.raw_folder(7) == nnunet_folders / "nnUNet_raw" / "Dataset007_Seven"
    with pytest.raises(FolderError, match="nnKD_plan_and_preprocess"):
        paths.preprocessed_folder(7)
    with pytest.raises(FolderError, match="nnKD_convert_dataset"):
        paths.raw_folder("Dataset008_Eight")


def test_the_trainer_path_keeps_what_is_set(monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    ours = paths.trainer_path()
    assert os.path.basename(ours) == "nnunet_ext"
    monkeypatch.setenv("nnUNet_extTrainer", "/a/b")
    both = paths.trainer_path()
    assert both.split(os.pathsep) == ["/a/b", ours]
    monkeypatch.setenv("nnUNet_extTrainer", both)
    assert paths.trainer_path() == both


def test_only_absolute_folders_are_replaced_in_texts(monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/data/nnunet")
    monkeypatch.setenv("nnUNet_preprocessed", "/data/nnunet_preprocessed/")
    monkeypatch.setenv("nnUNet_results", ".")
    text = "/data/nnunet_preprocessed/a and /data/nnunet/b. No more."
    assert paths.without_folders(text) == "$nnUNet_preprocessed/a and $nnUNet_raw/b. No more."


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.one_of(
        st.text(max_size=12),
        st.text(alphabet="./\\:~ a\x00", max_size=6),
        st.sampled_from(["..", "../x", "..\\x", "C:", "C:\\x", "NUL", "nul.nii", "com1", "a/b", "/etc", "", "x" * 300]),
    )
)
def test_a_name_that_passes_lies_directly_in_its_folder(name):
    try:
        paths.check_name(name, "a case")
    except DatasetError:
        return
    for folder in (PurePosixPath("/f"), PureWindowsPath("C:/f")):
        assert ((folder / name).parent, (folder / name).name) == (folder, name)
    assert name.partition(".")[0].upper() not in ("NUL", "CON", "COM1")


@pytest.mark.parametrize("name", ["case_1", "Müller 3", "a.b", "scan-2 (1)", "膵臓", "_x", ".hidden"])
def test_ordinary_names_pass(name):
    assert paths.check_name(name, "a case") == name


@hypothesis.given(st.text(max_size=8) | st.sampled_from(["com0", "LPT9.x", "nul .x", "x" * 201, "a*b", "x."]))
def test_cases_are_refused_whatever_else_would_be(name):
    if paths.name_problem(name):
        assert case_names.problem(name)
        with pytest.raises(DatasetError, match="cannot be the name of a teacher: it "):
            paths.check_name(name, "a teacher")
