"""Tests of nnkd.preprocessing.fingerprints: what a fingerprint was made from, and voxels that are to be ignored."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import nibabel
import numpy as np
import pytest
from planned import sample_few
from toy import toy_dataset, write_image

from nnkd.data.dataset import RawDataset
from nnkd.errors import DatasetError
from nnkd.files import write_json
from nnkd.preprocessing import fingerprints
from nnkd.preprocessing.planning import Planning

LABELS = {"background": 0, "liver": 1, "spleen": 2}


@pytest.fixture
def raw(nnunet_folders, monkeypatch) -> RawDataset:
    sample_few(monkeypatch)
    return toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", training=3, labelled=3)


@pytest.fixture
def target(nnunet_folders):
    folder = nnunet_folders / "nnUNet_preprocessed" / "Dataset701_Toy"
    folder.mkdir()
    return folder


def record(raw, target) -> fingerprints.Record:
    raw = RawDataset(raw.folder)
    return fingerprints.Record(raw, target, raw.images().cases(), "DatasetFingerprintExtractor")


def relabel(raw, **labels):
    write_json(raw.folder / "dataset.json", {**raw.spec.json, "labels": {**LABELS, **labels}})


def exchange_image(raw):
    first, second = (raw.images().files(case)[0] for case in ("toy_000", "toy_001"))
    shutil.copyfile(second, first)
    os.utime(first, (1, 1))


def correct_by_hand(raw):
    file = raw.label_file("toy_002")
    write_image(np.zeros((8, 24, 20), np.uint8), file)
    os.utime(file, (1, 1))


def take_away(raw):
    raw.images().files("toy_002")[0].unlink()


@pytest.mark.parametrize(
    "change",
    [exchange_image, correct_by_hand, take_away, lambda raw: relabel(raw, ignore=3)],
    ids=["image with an older time", "label map with an older time", "case less", "ignore label"],
)
def test_a_fingerprint_holds_until_something_it_was_made_from_changes(raw, target, change):
    assert record(raw, target).holds()  # there is none yet
    write_json(target / "dataset_fingerprint.json", {"spacings": []})
    assert not record(raw, target).holds()  # who knows what it was made from
    record(raw, target).write()
    assert record(raw, target).holds()
    for case in raw.images().cases():
        os.utime(raw.images().files(case)[0])  # time alone says nothing
    assert record(raw, target).holds()
    change(raw)
    assert not record(raw, target).holds()


def test_another_fingerprint_in_its_place_is_seen(raw, target):
    write_json(target / "dataset_fingerprint.json", {"spacings": []})
    record(raw, target).write()
    write_json(target / "dataset_fingerprint.json", {"spacings": [1]})
    assert not record(raw, target).holds()


@pytest.mark.parametrize("channel", ["CT", "MRI"])
def test_ignored_voxels_are_no_foreground(raw, target, channel):
    seen = []
    for case in raw.images().cases():
        image, label_map = raw.images().read(case)[0][0], raw.spec.read_label_map(raw.label_file(case))[0]
        image[:, :6], label_map[:, :6] = -3000, 3
        write_image(image, raw.images().files(case)[0])
        write_image(label_map.astype(np.uint8), raw.label_file(case))
        array, labels = (nibabel.load(f).get_fdata() for f in (raw.images().files(case)[0], raw.label_file(case)))
        seen.append(array[(labels == 1) | (labels == 2)])
    relabel(raw, ignore=3)
    raw = RawDataset(raw.folder)
    Planning(fingerprint_processes=1).plan(raw, target, raw.images().cases())
    found = json.loads((target / "dataset_fingerprint.json").read_text())["foreground_intensity_properties_per_channel"]
    assert found["0"]["min"] == pytest.approx(min(values.min() for values in seen))
    assert found["0"]["max"] == pytest.approx(max(values.max() for values in seen))
    assert found["0"]["mean"] == pytest.approx(np.mean([values.mean() for values in seen]), rel=0.01)  # it draws voxels
    assert json.loads((target / fingerprints.RECORD).read_text())["fingerprint"]


def test_the_reader_reaches_other_processes(raw):
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor as nnunets

    relabel(raw, ignore=2)
    spec = RawDataset(raw.folder).spec
    choose = nnunets.determine_reader_writer_from_dataset_json
    with fingerprints.without_ignored(spec):
        kind = nnunets.determine_reader_writer_from_dataset_json(
            dict(spec.json), str(raw.images().files("toy_000")[0]), verbose=False
        )
    assert nnunets.determine_reader_writer_from_dataset_json is choose
    label_map, _ = pickle.loads(pickle.dumps(kind))().read_seg(str(raw.label_file("toy_000")))
    assert set(np.unique(label_map)) == {0, 1}


@pytest.mark.parametrize("value", [0, 3], ids=["nothing", "ignored voxels alone"])
def test_label_maps_without_any_label_are_one_sentence(raw, target, value):
    relabel(raw, ignore=3)
    for case in raw.images().cases():
        write_image(np.full((8, 24, 20), value, np.uint8), raw.label_file(case))
    raw = RawDataset(raw.folder)
    with pytest.raises(DatasetError, match=r"None of the 3 label map\(s\) .* holds a voxel of liver, spleen"):
        Planning(fingerprint_processes=1).plan(raw, target, raw.images().cases())
