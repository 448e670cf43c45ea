"""Comparing cases: what the cache depends on, and processes that die."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from toy import toy_dataset

from nnkd.data.dataset import DatasetSpec
from nnkd.errors import NnkdError
from nnkd.evaluation import comparisons
from nnkd.evaluation.comparisons import Files, Settings, compare_cases
from nnkd.evaluation.scores import FolderScores


@pytest.fixture
def setting(tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset702_Cohort", training=0, test=2, shape=(8, 12, 10))
    references = {case: dataset.label_file(case, "Ts") for case in dataset.images("Ts").cases()}
    files = Files(list(references), references, {"one": references}, tmp_path / "cache")
    return Settings(
        dataset.spec, dataset.spec.labels, "monai", dict.fromkeys((*dataset.spec.labels, "both"), 2.0)
    ), files


def run(settings, files, **more):
    folder = FolderScores("one", files={case: path.name for case, path in files.predictions["one"].items()})
    return compare_cases(settings, files, [folder], **more), folder


def test_the_cache_answers_only_for_the_same_settings_and_files(setting):
    settings, files = setting
    first, folder = run(settings, files)
    assert first.now == list(files.cases)
    again, same = run(settings, files)
    assert (again.now, again.earlier) == ([], list(files.cases))
    assert same.results == folder.results
    swapped = dict(zip(files.cases, reversed(files.references.values()), strict=True))
    spec = settings.spec
    for other, place in (
        (replace(settings, tolerance={**settings.tolerance, "liver": 3.0}), files),
        (replace(settings, labels={"both": (1, 2)}), files),
        (replace(settings, spec=replace(spec, json={**spec.json, "labels": {**spec.json["labels"], "x": 9}})), files),
        (settings, replace(files, predictions={"one": swapped})),
        (settings, replace(files, predictions={"one": {}})),
    ):
        assert run(other, place)[0].now == list(files.cases)


def test_the_spacing_beside_a_tif_stack_counts(tmp_path):
    """In the distances, which are in mm then, and in what the cache answers for."""
    spec = DatasetSpec(
        {"channel_names": {"0": "EM"}, "labels": {"background": 0, "x": 1}, "file_ending": ".tif"}, "toy"
    )
    (tmp_path / "b").mkdir()
    for place, z in ((tmp_path / "c.tif", 1), (tmp_path / "b" / "c.tif", 3)):
        stack = np.zeros((5, 20, 30), np.uint8)
        stack[z, 5, 5] = 1
        tifffile.imwrite(place, stack, photometric="minisblack")
        place.with_suffix(".json").write_text('{"spacing": [4, 1, 1]}')
    files = Files(["c"], {"c": tmp_path / "c.tif"}, {"one": {"c": tmp_path / "b" / "c.tif"}}, tmp_path / "cache")
    settings = Settings(spec, spec.labels, "monai", {"x": 2.0})
    compared, folder = run(settings, files)
    assert not compared.without_spacing
    assert folder.results["c"]["x"].values["HD"] == 8  # two slices of 4 mm
    (tmp_path / "c.json").write_text('{"spacing": [5, 1, 1]}')
    compared, folder = run(settings, files)
    assert "spacing" in folder.failures["c"]


def test_a_missing_label_map_is_an_empty_one(setting):
    settings, files = setting
    _, folder = run(settings, replace(files, predictions={"one": {}}))
    assert {r.state for labels in folder.results.values() for r in labels.values()} == {"prediction_empty"}


def _dies(task):
    os._exit(9)


@pytest.mark.heavy
def test_a_process_that_dies_is_one_sentence(setting, monkeypatch):
    settings, files = setting
    monkeypatch.setattr(comparisons, "_compare_case", _dies)
    with pytest.raises(NnkdError, match="-np 1"):
        run(settings, files, workers=2)
