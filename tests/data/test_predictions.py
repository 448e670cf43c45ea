"""Tests of nnkd.data.predictions."""

from __future__ import annotations

import json

import pytest
from toy import toy_teacher

from nnkd.data.predictions import PredictionFolder, Weights, portable_options
from nnkd.errors import PredictionError


def test_a_folder_is_continued_only_if_made_the_same_way(dataset):
    folder = toy_teacher(dataset, "one")
    manifest = folder.manifest()
    assert folder.cases() == dataset.images().cases()
    header = manifest.model_copy(update={"cases": {}, "options": {"number": 3}})
    with pytest.raises(PredictionError, match="number=None, now number=3"):
        folder.begin(header)
    assert folder.begin(header, overwrite=True).cases == {}


def test_options_that_only_cost_may_change(dataset):
    made = toy_teacher(dataset, "one")
    used = {"cache": 512, "licence": ""}
    weights = [Weights(name="a.pth", sha256="0")]
    made.begin(made.manifest().model_copy(update={"cases": {}, "options": used, "weights": weights}), overwrite=True)
    now = {"cache": 0, "licence": "MIT"}
    weights = [Weights(name="a.pth", sha256="0", licence="MIT")]
    header = made.manifest().model_copy(update={"cases": {}, "options": now, "weights": weights})
    with pytest.raises(PredictionError, match="cache=512, now cache=0"):
        made.begin(header)
    found = PredictionFolder(made.folder, ["cache", "licence"]).begin(header)
    assert (found.options, found.weights) == (now, weights) == (made.manifest().options, made.manifest().weights)
    header = header.model_copy(update={"options": {**now, "model": "other"}})
    with pytest.raises(PredictionError, match="model=None, now model=other"):
        PredictionFolder(made.folder, ["cache", "licence"]).begin(header)


def test_a_failed_case_is_not_done(dataset):
    folder = toy_teacher(dataset, "one")
    inputs = folder.manifest().cases["toy_000"].inputs
    assert folder.is_done(folder.manifest(), "toy_000", inputs)
    assert not folder.is_done(folder.manifest(), "toy_000", {**inputs, "other": "x"})
    folder.fail("toy_000", "no reason")
    assert "toy_000" not in folder.cases()
    assert folder.manifest().failures == {"toy_000": "no reason"}


def test_a_broken_manifest_is_named(dataset):
    folder = toy_teacher(dataset, "one")
    folder.manifest_file.write_text("{")
    with pytest.raises(PredictionError, match=r"manifest\.json"):
        folder.cases()


def test_options_lose_their_absolute_paths():
    assert portable_options({"folder": "/home/me/masks", "map": {"a": "/x/y"}}) == {
        "folder": ".../masks",
        "map": {"a": ".../y"},
    }
    command = "python /home/me/my_tool.py -i {image} -o {folder}/out/x.nii --from https://a.org/b/c.pt --in=/data/me/x"
    kept = "python .../my_tool.py -i {image} -o {folder}/out/x.nii --from https://a.org/b/c.pt --in=.../x"
    assert portable_options({"command": command}) == {"command": kept}


@pytest.mark.parametrize("case", ["../victim", "..\\victim", "/etc/victim", "C:victim", "NUL", "a/b", ".."])
@pytest.mark.parametrize("part", ["cases", "failures"])
def test_a_manifest_whose_cases_lead_elsewhere_is_refused(tmp_path, case, part):
    found = {"inputs": {}, "output": "0", "answers": ["x"]} if part == "cases" else "it failed"
    manifest = {"kind": "teacher", "name": "t", "made_by": "x", "labels": {"x": [1]}, "file_ending": ".nii.gz"}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, part: {case: found}}))
    with pytest.raises(PredictionError, match="cannot be the name of a case"):
        PredictionFolder(tmp_path).manifest()
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "file_ending": "/../victim.nii.gz"}))
    with pytest.raises(PredictionError, match="no ending of files"):
        PredictionFolder(tmp_path).manifest()
