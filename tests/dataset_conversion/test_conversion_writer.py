from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import made_up
import numpy as np
import pytest
import SimpleITK as sitk
from nnkd_dataset_conversion.target import Target, copy_table
from nnkd_dataset_conversion.writer import DatasetWriter, SourceCase

from nnkd.data.dataset import RawDataset
from nnkd.data.reading.formats import read
from nnkd.errors import DatasetError, FolderError, ParticipantsError, UnknownNameError
from nnkd.replacing import Written


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for k in range(3):
        made_up.volume(tmp_path / "download" / f"c{k}.nii.gz", seed=k)
        made_up.volume(tmp_path / "download" / "labels" / f"c{k}.nii.gz", made_up.labels(seed=k))
    return tmp_path / "download"


def cases(source: Path, n: int = 3) -> list[SourceCase]:
    return [SourceCase(f"c{k}", [source / f"c{k}.nii.gz"], source / "labels" / f"c{k}.nii.gz") for k in range(n)]


def writer(source: Path, target: Target | str = "Dataset710_W", **options) -> DatasetWriter:
    options = {"channel_names": ["CT"], "labels": {"a": 1, "b": 2}, **options}
    return DatasetWriter(target, source=source, **options)


def test_files_are_copied_byte_by_byte_and_the_dataset_opens(source, nnunet_folders):
    report = writer(source, Target(710, "W", licence="CC0", reference="nobody")).write(cases(source))
    dataset = RawDataset.open(710)
    assert report.done == ["c0", "c1", "c2"]
    assert not report.failures
    assert dataset.images().files("c1")[0].read_bytes() == (source / "c1.nii.gz").read_bytes()
    assert dataset.label_file("c1").read_bytes() == (source / "labels" / "c1.nii.gz").read_bytes()
    assert dataset.spec.json["numTraining"] == 3
    assert (dataset.spec.json["licence"], dataset.spec.json["reference"]) == ("CC0", "nobody")
    assert str(source.parent) not in (dataset.folder / "conversion.json").read_text()


def test_again_does_only_what_is_missing(source, nnunet_folders):
    dataset = nnunet_folders / "nnUNet_raw" / "Dataset710_W"
    writer(source).write(cases(source))
    edited = dataset / "labelsTr" / "c0.nii.gz"
    edited.write_bytes(b"edited by hand")
    (dataset / "imagesTr" / "c2_0000.nii.gz").unlink()
    (dataset / "imagesTr" / ".writing-0123-c2_0000.nii.gz").write_bytes(b"left by a killed run")
    report = writer(source).write(cases(source))
    assert (report.done, report.skipped) == (["c2"], ["c0", "c1"])
    assert edited.read_bytes() == b"edited by hand"
    assert not list(dataset.rglob(".writing-*"))


def test_a_case_that_was_moved_to_the_test_set_is_not_brought_back(source, nnunet_folders):
    dataset = nnunet_folders / "nnUNet_raw" / "Dataset710_W"
    writer(source).write(cases(source))
    (dataset / "imagesTs").mkdir()
    os.replace(dataset / "imagesTr" / "c1_0000.nii.gz", dataset / "imagesTs" / "c1_0000.nii.gz")
    writer(source).write(cases(source))
    assert sorted(p.name for p in (dataset / "imagesTr").iterdir()) == ["c0_0000.nii.gz", "c2_0000.nii.gz"]


def test_own_keys_in_dataset_json_survive(source, nnunet_folders):
    writer(source).write(cases(source))
    file = nnunet_folders / "nnUNet_raw" / "Dataset710_W" / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "mine": 1}))
    writer(source).write(cases(source))
    assert json.loads(file.read_text())["mine"] == 1


def test_one_bad_case_does_not_stop_the_rest_and_leaves_nothing(source, nnunet_folders):
    cut = source / "c0.nii.gz"
    cut.write_bytes(cut.read_bytes()[:200])
    made_up.volume(source / "labels" / "c2.nii.gz", made_up.labels((0, 1, 7)))
    report = writer(source).write(cases(source))
    assert report.done == ["c1"]
    assert {f.case for f in report.failures} == {"c0", "c2"}
    assert "'c0.nii.gz' in download is truncated" in report.failures[0].reason
    assert "holds the value 7, but the labels are 0, 1, 2" in report.failures[1].reason
    assert RawDataset.open(710).images().cases() == ["c1"]
    assert RawDataset.open(710).spec.json["numTraining"] == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"spacing": (1.5, 1.0, 2.1)}, "spacing"),
        ({"origin": (11.0, -20.0, 30.0)}, "origin"),
        ({"array": made_up.labels(shape=(5, 6, 8))}, "size 5x6x8 against 5x6x7"),
    ],
)
def test_a_label_map_on_another_grid_is_refused(source, nnunet_folders, change, what):
    array = change.pop("array", made_up.labels())
    made_up.volume(source / "labels" / "c1.nii.gz", array, **change)
    report = writer(source).write(cases(source))
    assert [f.case for f in report.failures] == ["c1"]
    assert f"does not lie on its image's grid: {what}" in report.failures[0].reason


def test_fractions_are_no_labels(source, nnunet_folders):
    made_up.volume(source / "labels" / "c1.nii.gz", made_up.labels() * np.float32(0.5))
    report = writer(source).write(cases(source))
    assert "holds fractions" in report.failures[0].reason


def test_channels_on_different_grids_and_too_few(source, nnunet_folders):
    made_up.volume(source / "shifted.nii.gz", origin=(0, 0, 0))
    two = [
        SourceCase("moved", [source / "c0.nii.gz", source / "shifted.nii.gz"]),
        SourceCase("one", [source / "c0.nii.gz"]),
        SourceCase("good", [source / "c0.nii.gz", source / "c1.nii.gz"]),
    ]
    report = writer(source, channel_names=["T1", "T2"]).write(two)
    reasons = {f.case: f.reason for f in report.failures}
    assert "The channels of 'moved' differ: origin" in reasons["moved"]
    assert "has 1 channel, but 2 (T1, T2) are expected" in reasons["one"]
    assert report.done == ["good"]


def test_an_unlabelled_dataset_is_fine(source, nnunet_folders):
    writer(source).write([SourceCase("c0", [source / "c0.nii.gz"])])
    dataset = RawDataset.open(710)
    assert dataset.images().cases() == ["c0"]
    assert not (dataset.folder / "labelsTr").exists()


def test_another_dataset_in_that_place_is_refused(source, nnunet_folders):
    writer(source).write(cases(source))
    raw = nnunet_folders / "nnUNet_raw"
    with pytest.raises(DatasetError, match="made with other labels"):
        writer(source, labels={"a": 1})
    with pytest.raises(DatasetError, match="made with other source"):
        writer(source / "labels")
    with pytest.raises(DatasetError, match="belongs to Dataset710_W in nnUNet_raw"):
        writer(source, Target(710, "Other"))
    (raw / "Dataset711_Foreign" / "imagesTr").mkdir(parents=True)
    (raw / "Dataset711_Foreign" / "imagesTr" / "x_0000.nii.gz").write_bytes(b"x")
    with pytest.raises(DatasetError, match="was not made by nnKD_convert_dataset"):
        writer(source, "Dataset711_Foreign")
    (nnunet_folders / "nnUNet_preprocessed" / "Dataset712_Old").mkdir()
    with pytest.raises(DatasetError, match="belongs to Dataset712_Old in nnUNet_preprocessed"):
        writer(source, "Dataset712_New")


def test_where_nothing_was_written_other_options_may_be_tried(source, nnunet_folders):
    made_up.volume(source / "labels" / "c0.nii.gz", made_up.labels((0, 9)))
    assert writer(source).write(cases(source, 1)).failures
    assert not (nnunet_folders / "nnUNet_raw" / "Dataset710_W" / "dataset.json").exists()
    assert writer(source, labels={"nine": 9}).write(cases(source, 1)).done == ["c0"]


def test_names(source, nnunet_folders, monkeypatch):
    with pytest.raises(DatasetError, match="with -n"):
        writer(source, "710")
    with pytest.raises(DatasetError, match="nnU-Net's form"):
        writer(source, Target(710, "with space"))
    with pytest.raises(DatasetError, match="come twice, such as 'c0'"):
        writer(source).write([*cases(source), SourceCase("c0", [source / "c0.nii.gz"], split="Ts")])
    with pytest.raises(DatasetError, match="No case was found in download"):
        writer(source).write([])
    with pytest.raises(DatasetError, match="No label beside"):
        writer(source, labels={"background": 0})
    writer(source).write(cases(source))
    assert writer(source, "710").folder.name == "Dataset710_W"
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises((FolderError, UnknownNameError)):
        writer(source)


def test_participants_are_copied_and_checked(source, nnunet_folders, tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("participant_id;sex;age\nc0;M;60\nc1;F;61\n", encoding="utf-8-sig")
    target = Target("Dataset710_W", participants=table)
    writer(source, target).write(cases(source))
    text = (nnunet_folders / "nnUNet_raw" / "Dataset710_W" / "participants.tsv").read_text()
    assert text == "participant_id\tsex\tage\nc0\tM\t60\nc1\tF\t61\n"
    table.write_text("who,sex\nc0,M\n")
    with pytest.raises(ParticipantsError, match="participant_id"):
        writer(source, target).write(cases(source))
    with pytest.raises(DatasetError, match="is no table"):
        copy_table(tmp_path / "none.csv", Written(tmp_path), "x.tsv")


def test_a_full_disk_leaves_nothing_half_written(source, nnunet_folders, monkeypatch):
    sitk.WriteImage(sitk.ReadImage(str(source / "c0.nii.gz")), str(source / "c0.nrrd"))
    write = sitk.WriteImage

    def cut(image, name, **options):  # what ITK's NIfTI writer does on a full disk: no error
        write(image, name, **options)
        Path(name).write_bytes(Path(name).read_bytes()[:150])

    monkeypatch.setattr(sitk, "WriteImage", cut)
    report = writer(source).write([SourceCase("c0", [source / "c0.nrrd"])])
    assert "could not be written" in report.failures[0].reason
    assert not [p for p in (nnunet_folders / "nnUNet_raw" / "Dataset710_W").rglob("*0000*") if p.is_file()]


def test_two_conversions_at_once_are_refused(source, nnunet_folders):
    from filelock import FileLock

    made = writer(source)
    made.folder.mkdir()
    with FileLock(made.folder / ".conversion.lock"), pytest.raises(DatasetError, match="Another conversion"):
        made.write(cases(source))


SCRIPT = """
import sys
from pathlib import Path
from nnkd_dataset_conversion.images_folder import convert
convert(Path(sys.argv[1]), "Dataset710_Kill", channels=["CT"], labels={"x": 1})
"""


@pytest.mark.heavy
def test_killed_and_run_again_gives_the_same_as_in_one_go(tmp_path, nnunet_folders):
    arrays = {}
    for k in range(40):  # nrrd: every file has to be encoded
        array = np.random.default_rng(k).integers(0, 999, (24, 64, 64)).astype(np.int16)
        arrays[f"k{k:02d}"] = made_up.volume(tmp_path / "in" / f"k{k:02d}.nrrd", array)
    images = nnunet_folders / "nnUNet_raw" / "Dataset710_Kill" / "imagesTr"
    for wanted in (1, 5):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path / "in"], stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(images.glob("k*"))) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (images.parent / "dataset.json").exists()
        for file in images.glob("k*"):  # what has its final name is whole
            np.testing.assert_array_equal(read(file).array[0], arrays[file.name[:3]])
    from nnkd_dataset_conversion.images_folder import convert

    report = convert(tmp_path / "in", "Dataset710_Kill", channels=["CT"], labels={"x": 1})
    assert len(report.skipped) >= 5
    assert len(report.skipped) + len(report.done) == 40
    assert not list(images.glob(".*"))
    dataset = RawDataset.open(710)
    for case, array in arrays.items():
        np.testing.assert_array_equal(dataset.images().read(case)[0][0], array)


def test_cases_whose_names_other_files_have_fail_alone(source, nnunet_folders):
    listed = [replace(case, name=name) for case, name in zip(cases(source), ("x", "x_seg", "X"), strict=True)]
    report = writer(source).write(listed, read=[source])
    assert [failure.case for failure in report.failures] == ["x", "x_seg"]
    assert "ends with _seg" in report.failures[1].reason
    assert report.done == ["X"]
    (count,) = report.folders
    assert count.line == "download: 6 files came in: 6 used"


def test_what_a_download_holds_beside_its_images_is_named(source, nnunet_folders):
    for name in ("c9.nii.gz", "survival.csv", "name_mapping.txt", "LICENSE", "labels/._c0.nii.gz", "c8.nii.gz.part"):
        (source / name).write_bytes(b"x")
    (count,) = writer(source).write(cases(source), read=[source]).folders
    assert count.used == 6
    assert {rule: list(names) for rule, names in count.aside.items()} == {
        "not taken by this conversion": ["c9.nii.gz"],
        "table": ["survival.csv"],
        "text": ["name_mapping.txt"],
        "document": ["LICENSE"],
        "shadow file of macOS": ["labels/._c0.nii.gz"],
    }
    assert list(count.unknown) == ["c8.nii.gz.part"]
