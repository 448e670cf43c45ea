"""Tests of nnkd.preprocessing.configurations, adoption and freshness: what no longer holds is made anew or refused."""

from __future__ import annotations

import json
import os
import shutil

import blosc2
import numpy as np
import pytest
from planned import configuration, make_plans
from toy import toy_dataset, toy_teacher, write_image

from nnkd.data import listing
from nnkd.data.dataset import RawDataset
from nnkd.errors import FileError, PredictionError, RecipeError, VotesError
from nnkd.files import sha256, sha256_text, write_json
from nnkd.preprocessing import adoption, configurations, freshness, planning
from nnkd.preprocessing.folders import inputs_file, listed_cases, read_inputs
from nnkd.types import StepReport
from nnkd.votes.folder import VotesFolder
from nnkd.votes.panel import Panel

NAME = "Dataset701_Toy"
LINEAR = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


class Prepared:
    """A CT dataset of three cases and two teachers, preprocessed in 2d by plans made by hand."""

    def __init__(self, folder):
        self.raw = toy_dataset(folder / "nnUNet_raw" / NAME, training=3, labelled=3)
        for number in range(2):
            toy_teacher(self.raw, f"t{number}", shift=number, seed=number)
        values = configuration("2d", (16, 16), (1.0, 1.0), normalization_schemes=["CTNormalization"])
        self.plans = make_plans(self.raw, {"2d": values})
        self.set_statistics(130.0)
        self.folder = folder / "nnUNet_preprocessed" / NAME
        self.there = self.folder / "nnUNetPlans_2d"
        configurations.copy_tables(self.raw, self.folder)

    def set_statistics(self, mean):
        known = {"mean": mean, "std": 40.0, "percentile_00_5": 95.0, "percentile_99_5": 230.0}
        self.plans["foreground_intensity_properties_per_channel"] = {"0": known}

    def run(self, teachers=("t0", "t1")):
        self.raw = RawDataset(self.raw.folder)
        panel = Panel.open(self.raw.teachers_folder(), self.raw, teachers) if teachers else None
        report, cases = StepReport(), self.raw.images().cases()
        configurations.preprocess(self.raw, self.folder, self.plans, "2d", cases, 1, report, panel)
        return report

    def check(self, votes=True):
        spec = RawDataset(self.folder).spec
        of_votes = VotesFolder.of(self.folder, "nnUNetPlans_2d") if votes else None
        freshness.check(self.folder, self.plans, "2d", listed_cases(self.there), spec, of_votes)

    def exchange(self, ignore=False):
        """Liver and spleen exchange their integers in dataset.json alone."""
        labels = {"background": 0, "liver": 2, "spleen": 1, **({"ignore": 3} if ignore else {})}
        write_json(self.raw.folder / "dataset.json", {**self.raw.spec.json, "labels": labels})

    def age(self):
        """The record of an earlier version: one hash a case, and votes without origins."""
        values = self.plans["configurations"]["2d"]
        settings = sha256_text(str(sorted(values.items())) + str(self.plans["transpose_forward"]))
        old = {}
        for case in self.raw.images().cases():
            files = (*self.raw.images().files(case), self.raw.label_file(case))
            old[case] = sha256_text("".join(sha256(file) for file in files) + settings)
        write_json(inputs_file(self.there), old)
        votes = VotesFolder.of(self.folder, "nnUNetPlans_2d")
        for record in votes.index.cases.values():
            record.origins = {}
        votes.write_index(votes.index)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configurations")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed"):
            (folder / name).mkdir()
            patch.setenv(name, str(folder / name))
        Prepared(folder).run()
    return folder


@pytest.fixture
def prepared(original, nnunet_folders, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(original / name, nnunet_folders / name, dirs_exist_ok=True)
    found = Prepared.__new__(Prepared)
    found.raw = RawDataset(nnunet_folders / "nnUNet_raw" / NAME)
    found.folder = nnunet_folders / "nnUNet_preprocessed" / NAME
    found.there = found.folder / "nnUNetPlans_2d"
    found.plans = json.loads((found.folder / "nnUNetPlans.json").read_text())
    found.set_statistics(130.0)
    return found


def normalised(prepared, case):
    """What CT becomes, in plain numpy; the toy images need no resampling."""
    import nibabel

    image = nibabel.load(prepared.raw.images().files(case)[0]).get_fdata().T
    known = prepared.plans["foreground_intensity_properties_per_channel"]["0"]
    cut = np.clip(image, known["percentile_00_5"], known["percentile_99_5"])
    return (cut - known["mean"]) / known["std"]


def stored(prepared, case):
    return blosc2.open(str(prepared.there / f"{case}.b2nd"))[:][0]


def test_what_holds_is_neither_made_nor_refused(prepared):
    report = prepared.run()
    assert report.done == []
    assert report.lines == ["2d: 0 case(s) preprocessed, 3 up to date, votes of t0, t1"]
    prepared.check()
    assert set(read_inputs(prepared.there)["toy_000"]) == {
        "image 0", "label map", "label meaning", "channel names", "settings", "intensity statistics"
    }  # fmt: skip


def test_other_intensity_statistics_make_all_cases_anew(prepared):
    prepared.set_statistics(150.0)
    with pytest.raises(RecipeError, match=r"3 of 3 .*changed intensity statistics\). Run nnKD_plan_and_preprocess -d "):
        prepared.check()
    report = prepared.run()
    assert "3 case(s) preprocessed, 0 up to date" in report.lines[0]
    assert "(3 made anew: changed intensity statistics)" in report.lines[0]
    for case in report.done:
        assert np.abs(stored(prepared, case) - normalised(prepared, case)).max() < 1e-4
    prepared.check()


def test_folders_are_listed_as_often_whatever_the_number_of_cases(prepared, monkeypatch):
    listed, images, cases = [], listing.images, prepared.raw.images().cases()
    monkeypatch.setattr(listing, "images", lambda *given: listed.append(given) or images(*given))
    with planning._listed(prepared.raw, cases):
        pass
    assert len(listed) == 1
    listed.clear()
    prepared.run()
    nothing_done = len(listed)
    listed.clear()
    prepared.set_statistics(140.0)
    assert len(prepared.run().done) == len(cases)
    assert len(listed) == nothing_done > 0


def test_statistics_that_nobody_uses_make_nothing_anew(prepared):
    prepared.plans["configurations"]["2d"]["normalization_schemes"] = ["ZScoreNormalization"]
    assert "3 made anew: without intensity statistics; changed settings" in prepared.run().lines[0]
    prepared.set_statistics(150.0)
    assert prepared.run().done == []


@pytest.mark.parametrize("what", ["image", "label map"])
def test_a_file_of_the_same_size_and_an_older_time_is_seen(prepared, what):
    images = prepared.raw.images()
    file = images.files("toy_001")[0] if what == "image" else prepared.raw.label_file("toy_001")
    other = images.files("toy_002")[0] if what == "image" else prepared.raw.label_file("toy_002")
    shutil.copyfile(other, file)
    os.utime(file, (1, 1))
    name = "image 0" if what == "image" else "label map"
    with pytest.raises(RecipeError, match=rf"1 of 3 .*\(such as toy_001: changed {name}\)"):
        prepared.check(votes=False)
    report = prepared.run()
    assert report.done == ["toy_001"]
    assert f"1 made anew: changed {name}" in report.lines[0]


def test_what_integers_mean_counts(prepared):
    prepared.exchange()
    with pytest.raises(RecipeError, match=r"dataset\.json of Dataset701_Toy changed .*\(changed label meaning\)"):
        prepared.check()
    report = prepared.run(teachers=())
    assert "3 made anew: changed label meaning" in report.lines[0]
    configurations.copy_tables(prepared.raw, prepared.folder)
    prepared.check(votes=False)
    with pytest.raises(PredictionError, match=r"Teacher 't0' wrote"):
        prepared.run()


def test_votes_about_other_labels_are_refused(prepared):
    votes = VotesFolder.of(prepared.folder, "nnUNetPlans_2d")
    votes.write_index(votes.index.model_copy(update={"labels": ["spleen", "liver"]}))
    with pytest.raises(
        VotesError, match=r"are about spleen, liver, but dataset\.json of Dataset701_Toy names liver, s"
    ):
        prepared.check()


def test_an_ignore_label_counts(prepared):
    labels = {**prepared.raw.spec.json["labels"], "ignore": 3}
    write_json(prepared.raw.folder / "dataset.json", {**prepared.raw.spec.json, "labels": labels})
    assert "3 made anew: changed label meaning" in prepared.run().lines[0]
    assert adoption.labels_fit(prepared.there, "toy_000", prepared.raw.spec)


def test_votes_follow_what_their_teachers_say(prepared):
    toy_teacher(prepared.raw, "t1", shift=3, seed=5, cases=["toy_002"])
    with pytest.raises(VotesError, match=r"votes of case 'toy_002' .*changed label map of t1"):
        prepared.check()
    assert "1 made anew: votes, changed label map of t1" in prepared.run().lines[0]
    prepared.check()
    toy_teacher(prepared.raw, "t1", shift=3, seed=5, cases=["toy_002"], answers=["liver"])
    assert "1 made anew: votes, changed label" in prepared.run().lines[0]
    assert VotesFolder.of(prepared.folder, "nnUNetPlans_2d").index.cases["toy_002"].answers["t1"] == ["liver"]


def test_a_case_that_fails_is_not_counted_and_counts_as_done_nowhere(prepared):
    write_image(np.zeros((7, 24, 20), np.uint8), prepared.raw.label_file("toy_001"))
    report = prepared.run()
    assert [failure.case for failure in report.failures] == ["toy_001"]
    assert "0 case(s) preprocessed, 2 up to date, 1 failed" in report.lines[0]
    with pytest.raises(RecipeError, match=r"1 of 3 .*\(such as toy_001: nothing says what it was made from\)"):
        prepared.check()


def test_without_raw_what_is_there_is_compared(prepared, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    prepared.check()
    prepared.plans["configurations"]["2d"]["spacing"] = [2.0, 2.0]
    with pytest.raises(RecipeError, match="changed settings"):
        prepared.check()


def test_a_recipe_of_plans_that_were_made_anew_is_named(prepared):
    base = dict(prepared.plans)
    prepared.set_statistics(150.0)
    prepared.run()
    write_json(prepared.folder / "nnUNetPlans.json", prepared.plans)
    prepared.plans = {**base, "plans_name": "nnUNetPlans_mine", "nnkd": {"base": "nnUNetPlans"}}
    prepared.set_statistics(130.0)
    with pytest.raises(RecipeError, match="made anew since the recipe 'nnUNetPlans_mine' was written"):
        prepared.check()


# --- what an earlier version made -------------------------------------------------------------------------------------


def test_a_folder_of_an_earlier_version_is_verified_once_and_adopted(prepared):
    before = {file.name: file.stat().st_mtime_ns for file in prepared.there.iterdir()}
    prepared.age()
    with pytest.raises(RecipeError, match=r"earlier version of nnkd made it.* Run nnKD_plan_and_preprocess"):
        prepared.check()
    report = prepared.run()
    assert report.done == []
    assert report.lines == [
        "2d: 0 case(s) preprocessed, 3 up to date, 3 of an earlier version verified, votes of t0, t1"
    ]
    assert {file.name: file.stat().st_mtime_ns for file in prepared.there.iterdir()} == before
    assert all(r.origins for r in VotesFolder.of(prepared.folder, "nnUNetPlans_2d").index.cases.values())
    prepared.check()


@pytest.mark.parametrize("mean", [90.0, 130.01, 170.0])
def test_other_statistics_are_seen_in_an_earlier_versions_cases(prepared, mean, monkeypatch):
    prepared.age()
    prepared.set_statistics(mean)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(RecipeError, match="was preprocessed with other intensity statistics"):
        prepared.check(votes=False)
    assert "3 made anew: an earlier version made it from something else" in prepared.run().lines[0]
    for case in listed_cases(prepared.there):
        assert np.abs(stored(prepared, case) - normalised(prepared, case)).max() < 1e-4


def test_what_cannot_be_seen_is_made_anew(prepared):
    prepared.age()
    file = prepared.there / "toy_000.b2nd"
    data = blosc2.open(str(file))[:]
    file.unlink()
    blosc2.asarray(np.clip(data, -0.5, 0.5), urlpath=str(file))  # neither bound is reached
    values = prepared.plans["configurations"]["2d"]
    assert adoption.statistics_fit(prepared.there, "toy_000", prepared.plans, values) is None
    assert prepared.run().done == ["toy_000"]


def test_other_labels_are_seen_in_an_earlier_versions_cases(prepared):
    prepared.age()
    labels = {"background": 0, "liver": [1, 2], "spleen": 2}
    json_ = {**prepared.raw.spec.json, "labels": labels, "regions_class_order": [1, 2]}
    write_json(prepared.raw.folder / "dataset.json", json_)
    raw = RawDataset(prepared.raw.folder)
    assert not adoption.labels_fit(prepared.there, "toy_000", raw.spec)
    assert adoption.labels_fit(prepared.there, "toy_000", prepared.raw.spec)
    assert len(prepared.run(teachers=()).done) == 3
    assert adoption.labels_fit(prepared.there, "toy_000", raw.spec)


def test_resampling_leaves_the_bounds(prepared):
    prepared.plans["configurations"]["2d"]["spacing"] = [0.8, 1.3]
    prepared.run()
    values = prepared.plans["configurations"]["2d"]
    assert stored(prepared, "toy_000").shape != normalised(prepared, "toy_000").shape
    assert adoption.statistics_fit(prepared.there, "toy_000", prepared.plans, values) is True
    prepared.set_statistics(133.0)
    assert adoption.statistics_fit(prepared.there, "toy_000", prepared.plans, values) is False


def test_an_earlier_versions_case_runs_nothing(prepared, tmp_path):
    prepared.age()
    evil = f"cposix\nmkdir\n(V{tmp_path / 'RAN'}\ntR."
    (prepared.there / "toy_000.pkl").write_text(evil)
    with pytest.raises(FileError, match=r"'toy_000\.pkl' in nnUNetPlans_2d is not read"):
        adoption.labels_fit(prepared.there, "toy_000", prepared.raw.spec)
    assert "1 made anew" in prepared.run().lines[0]
    assert not (tmp_path / "RAN").exists()
    prepared.check()
