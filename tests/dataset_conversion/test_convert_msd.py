from __future__ import annotations

import json
import tarfile
from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.msd import convert, main
from toy import REAL_DATA, needs_real_data

from nnkd.data.dataset import RawDataset
from nnkd.errors import DatasetError, FolderError


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Task99_Toy with two channels in 4D, as the decathlon has it."""
    folder = tmp_path / "Task99_Toy"
    for k in range(2):
        two = np.random.default_rng(k).integers(0, 99, (2, 5, 6, 7)).astype(np.int16)
        made_up.volume(folder / "imagesTr" / f"toy_{k}.nii.gz", two)
        made_up.volume(folder / "labelsTr" / f"toy_{k}.nii.gz", made_up.labels())
        for what in ("imagesTr", "labelsTr"):
            (folder / what / f"._toy_{k}.nii.gz").write_bytes(b"shadow")
    made_up.volume(folder / "imagesTs" / "toy_7.nii.gz", two)
    said = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "PZ", "2": "TZ"},
            "licence": "CC-BY-SA 4.0", "reference": "somebody", "numTest": 1}  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(said))
    return folder


def check(dataset: RawDataset) -> None:
    assert dataset.spec.channel_names == ("T2", "ADC")
    assert dataset.spec.labels == {"PZ": (1,), "TZ": (2,)}
    assert (dataset.spec.json["licence"], dataset.spec.json["numTraining"]) == ("CC-BY-SA 4.0", 2)
    assert dataset.images().cases() == ["toy_0", "toy_1"]
    assert dataset.images("Ts").cases() == ["toy_7"]
    array, grid, _ = dataset.images().read("toy_1")
    expected = np.random.default_rng(1).integers(0, 99, (2, 5, 6, 7))
    np.testing.assert_array_equal(array, expected)
    assert grid.spacing == pytest.approx((2.0, 1.0, 1.5))
    label_map, label_grid, _ = dataset.spec.read_label_map(dataset.label_file("toy_1"))
    assert not label_grid.difference(grid)
    np.testing.assert_array_equal(label_map, made_up.labels())


def test_a_folder(task, nnunet_folders):
    report = convert(task, "Dataset799_Toy")
    assert not report.failures
    check(RawDataset.open(799))


def test_an_archive_and_again(task, nnunet_folders, tmp_path):
    (tmp_path / "down").mkdir()
    archive = tmp_path / "down" / "Task99_Toy.tar"
    with tarfile.open(archive, "w") as made:
        made.add(task, "Task99_Toy")
    assert main([str(archive), "-d", "799", "-n", "Toy"]) == 0
    check(RawDataset.open(799))
    assert main([str(archive), "-d", "799"]) == 0
    assert convert(task, "Dataset799_Toy").skipped == ["toy_0", "toy_1", "toy_7"]  # the folder is the same task


def test_without_dataset_json_channels_and_labels_are_asked_for(task, nnunet_folders, capsys):
    (task / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="Give --channels MRI"):
        convert(task, "Dataset799_Toy")
    arguments = [str(task), "-d", "799", "-n", "Toy", "--channels", "T2", "ADC"]
    assert main(arguments) == 1
    assert "Give --labels" in capsys.readouterr().err
    assert main([*arguments, "--labels", "PZ=1", "TZ=2", "--licence", "CC-BY-SA 4.0"]) == 0
    check(RawDataset.open(799))


def test_labels_optional_and_labels_alone(task, nnunet_folders, capsys):
    (task / "labelsTr" / "toy_0.nii.gz").unlink()
    made_up.volume(task / "labelsTr" / "toy_9.nii.gz", made_up.labels())
    assert main([str(task), "-d", "799", "-n", "Toy"]) == 3
    assert "toy_9: It has a label map, but no image." in capsys.readouterr().err
    assert not RawDataset.open(799).label_file("toy_0").exists()


def test_bad_dataset_json_and_bad_folder(task, nnunet_folders, tmp_path):
    (task / "dataset.json").write_text('{"modality": ["MRI"], "labels": {}}')
    with pytest.raises(DatasetError, match="is not as the decathlon's"):
        convert(task, "Dataset799_Toy")
    with pytest.raises(FolderError, match="no folder imagesTr"):
        convert(tmp_path, "Dataset799_Toy")


@pytest.mark.parametrize("words", [["a=x"], ["a=1", "b=1"], ["a", "a"], ["=1"]])
def test_wrong_label_words_are_usage_errors(task, nnunet_folders, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(task), "-d", "799", "-n", "Toy", "--labels", *words])
    assert stopped.value.code == 2


@pytest.mark.heavy
@needs_real_data("hippocampus")
def test_hippocampus(nnunet_folders):
    report = convert(
        REAL_DATA / "hippocampus", "Dataset704_H", channels=["MRI"], labels={"anterior": 1, "posterior": 2}
    )
    assert (len(report.done), report.failures, report.data["labelsTr"]) == (200, [], 200)


def test_each_file_of_the_task_is_counted(task, nnunet_folders, capsys):
    (task / "imagesTr" / "toy_1.nii.gz.part").write_bytes(b"x")
    (task / "README.md").write_text("x")
    assert main([str(task), "-d", "710", "-n", "D"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Task99_Toy: 12 files came in: 5 used, 6 set aside (document: README.md; file of nnkd or nnU-Net: dataset.json"
        "; shadow file of macOS: imagesTr/._toy_0.nii.gz, imagesTr/._toy_1.nii.gz, labelsTr/._toy_0.nii.gz and 1 more)"
        ", 1 not understood (imagesTr/toy_1.nii.gz.part)"
    )
