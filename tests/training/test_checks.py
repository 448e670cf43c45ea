"""Tests of nnkd.training.checks; nnKD_train's own tests see most of it."""

from __future__ import annotations

import json
import re

import pytest

from nnkd.data import listing
from nnkd.errors import DatasetError, RecipeError
from nnkd.training import checks


@pytest.mark.parametrize(
    ("fold", "cases", "sentence"),
    [("1", ["a", "b"], "1 fold"), ("0", ["a"], r"names 1 case\(s\) .* \(such as b\)")],
)
def test_folds_that_are_not_there(tmp_path, fold, cases, sentence):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    checks.check_fold(tmp_path, "0", "2d", ["a", "b"])
    checks.check_fold(tmp_path, "all", "2d", ["a"])
    with pytest.raises(RecipeError, match=sentence):
        checks.check_fold(tmp_path, fold, "2d", cases)


@pytest.mark.parametrize(("train", "val", "what"), [([], ["b"], "training"), (["a"], [], "validation")])
def test_a_fold_in_which_nobody_trains_or_validates(tmp_path, train, val, what):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    with pytest.raises(RecipeError, match=rf"Fold 0 of splits_final\.json of .* has no {what} case"):
        checks.check_fold(tmp_path, "0", "2d", ["a", "b"])


def test_a_splits_file_of_another_form_and_cases_on_both_sides(tmp_path, caplog):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps({"train": ["a"], "val": ["b"]}))
    with pytest.raises(DatasetError, match=r"splits_final\.json of .* holds a dict\. nnU-Net's form"):
        checks.check_fold(tmp_path, "0", "2d", ["a", "b"])
    file.write_text(json.dumps([{"train": ["a", "b"], "val": ["b"]}]))
    with caplog.at_level("WARNING", "nnkd"):
        checks.check_fold(tmp_path, "0", "2d", ["a", "b"])
    assert "Fold 0 of splits_final.json trains on 1 of its validation cases (such as b)." in caplog.text


def test_results_that_are_missing(tmp_path):
    model = tmp_path / "TR__p"
    with pytest.raises(RecipeError, match=r"--val needs checkpoint_final\.pth, but TR__p__2d/fold_0 has none"):
        checks.check_results(model, "0", "2d", None, {"--val": "checkpoint_final.pth"})
    with pytest.raises(RecipeError, match="starts from the predictions of 3d_lowres"):
        checks.check_results(model, "0", "3d_cascade_fullres", "3d_lowres", {})


def test_files_that_nnunet_would_take_for_cases_are_refused(tmp_path):
    for name in ("a.b2nd", "a_seg.b2nd", "a.pkl"):
        (tmp_path / name).write_bytes(b"x")
    checks.check_files(listing.preprocessed(tmp_path))
    assert listing.preprocessed(tmp_path).count("2d").line == "2d: 3 files came in: 3 used"
    for name in ("._a.b2nd", ".DS_Store", "b.b2nd", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(RecipeError, match=f"holds {re.escape(name)}, which nnU-Net would take for training"):
            checks.check_files(listing.preprocessed(tmp_path))
        (tmp_path / name).unlink()
