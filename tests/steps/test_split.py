"""nnKD_split on disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy import toy_dataset, toy_teacher

from nnkd.cli.split import main
from nnkd.data import split_record
from nnkd.data.dataset import RawDataset
from nnkd.data.split_record import Wishes
from nnkd.errors import DatasetError, ParticipantsError, SettingError
from nnkd.steps.split import split
from nnkd.votes import consensus


@pytest.fixture
def cohort(nnunet_folders: Path) -> RawDataset:
    """24 labelled cases of 12 people, two scans each; half of the people are women."""
    dataset = toy_dataset(
        nnunet_folders / "nnUNet_raw" / "Dataset702_People", training=24, labelled=24, shape=(4, 8, 8)
    )
    rows = "".join(f"sub-{n:02d}\t{'FM'[n % 2]}\t{20 + 3 * n}\n" for n in range(12))
    (dataset.folder / "participants.tsv").write_text("participant_id\tsex\tage\n" + rows)
    rows = "".join(f"toy_{n:03d}\t{n // 2:02d}\n" for n in range(24))
    (dataset.folder / "cases.tsv").write_text("case\tparticipant_id\n" + rows)
    return dataset


def splits_file(dataset: RawDataset) -> Path:
    return dataset.folder.parents[1] / "nnUNet_preprocessed" / dataset.name / "splits_final.json"


def tree(dataset: RawDataset) -> dict[str, bytes]:
    """Every file of the dataset and its split with its content; locks and temporary files left out."""
    files = [f for f in dataset.folder.rglob("*") if f.is_file() and not f.name.endswith(".lock")]
    found = {str(f.relative_to(dataset.folder)): f.read_bytes() for f in files}
    return {**found, "splits": splits_file(dataset).read_bytes() if splits_file(dataset).is_file() else b""}


def names(folder: Path) -> set[str]:
    return {f.name.removesuffix(".nii.gz").removesuffix("_0000") for f in folder.glob("*.nii.gz")}


def person(case: str) -> int:
    return int(case[-3:]) // 2


def test_folds_in_nnunets_layout_keep_people_together(cohort: RawDataset):
    report = split(cohort, Wishes(folds=4, stratify=["sex"]))
    folds = json.loads(splits_file(cohort).read_text())
    assert [set(fold) for fold in folds] == [{"train", "val"}] * 4
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(names(cohort.folder / "imagesTr"))
    for fold in folds:
        assert not {person(c) for c in fold["train"]} & {person(c) for c in fold["val"]}
        assert len({person(c) for c in fold["val"]}) == 3
    assert report.lines[0] == "Dataset702_People: 12 participants (24 cases) for training"
    assert "fold 0: 9 participants (18 cases) to train, 3 participants (6 cases) to validate" in report.lines
    shares = next(line for line in report.lines if line.startswith("  sex F: 50, "))
    assert set(shares.removeprefix("  sex F: 50, ").split(", ")) <= {"33", "67"}
    assert not (cohort.folder / "split.json").exists()


def test_without_participants_every_case_is_a_person(dataset: RawDataset):
    split(dataset, Wishes(folds=2))
    assert [len(fold["val"]) for fold in json.loads(splits_file(dataset).read_text())] == [2, 2]


def test_test_set_moves_whole_people_and_updates_the_json(cohort: RawDataset):
    report = split(cohort, Wishes(folds=3, test=4, stratify=["sex"]))
    moved = names(cohort.folder / "imagesTs")
    assert moved == names(cohort.folder / "labelsTs") == set(report.data["test"])
    assert len(moved) == 8
    assert len({person(case) for case in moved}) == 4
    assert sum(person(case) % 2 for case in moved) == 4  # two men, two scans each
    assert not moved & names(cohort.folder / "imagesTr")
    assert not moved & names(cohort.folder / "labelsTr")
    assert RawDataset(cohort.folder).spec.json["numTraining"] == 16
    assert not moved & set(report.data["folds"][0]["train"])
    record = (cohort.folder / "split.json").read_text()
    assert "age" not in record
    assert json.loads(record)["test"]["cases"] == sorted(moved)


def test_same_command_again_changes_nothing(cohort: RawDataset):
    wishes = Wishes(folds=3, test=0.25, labelled=3, stratify=["age"], bins={"age": [35]}, seed=4)
    split(cohort, wishes)
    before = tree(cohort)
    split(RawDataset(cohort.folder), wishes)
    assert tree(cohort) == before


def test_test_set_stays_when_folds_change(cohort: RawDataset):
    split(cohort, Wishes(folds=3, test=4))
    moved = names(cohort.folder / "imagesTs")
    report = split(RawDataset(cohort.folder), Wishes(folds=2, overwrite=True))
    assert names(cohort.folder / "imagesTs") == moved == set(report.data["test"])
    with pytest.raises(DatasetError, match="has a test set already"):
        split(RawDataset(cohort.folder), Wishes(folds=2, test=5, overwrite=True))


def test_labelled_hides_the_other_manual_label_maps(cohort: RawDataset):
    report = split(cohort, Wishes(folds=3, labelled=3))
    kept, hidden = names(cohort.folder / "labelsTr"), names(cohort.folder / "labelsHidden")
    assert len({person(case) for case in kept}) == 3
    assert len(kept) == 6
    assert kept | hidden == names(cohort.folder / "imagesTr")
    assert not kept & hidden
    assert (
        "manual label maps: 3 participants (6 cases); hidden in labelsHidden: 9 participants (18 cases)" in report.lines
    )


def test_another_number_of_labelled_people(cohort: RawDataset):
    split(cohort, Wishes(folds=3, labelled=3))
    with pytest.raises(DatasetError, match="hidden already"):
        split(RawDataset(cohort.folder), Wishes(folds=3, labelled=5))
    split(RawDataset(cohort.folder), Wishes(folds=3, labelled=5, overwrite=True))
    kept, hidden = names(cohort.folder / "labelsTr"), names(cohort.folder / "labelsHidden")
    assert len({person(case) for case in kept}) == 5
    assert kept | hidden == names(cohort.folder / "imagesTr")
    assert not kept & hidden


def aggregate(dataset: RawDataset, cases: list[str]) -> None:
    """A consensus for cases without a manual label map."""
    with consensus.writing(dataset):
        for case in cases:
            array, _, properties = dataset.images().read(case)
            label_map = np.ones(array.shape[1:], np.uint8)
            assert consensus.write(dataset, case, label_map, properties, teachers=["t"], inputs={"t/x": "0"})


def test_a_consensus_in_place_of_a_hidden_label_map_is_never_mistaken_for_it(cohort: RawDataset):
    wishes = Wishes(folds=3, labelled=3)
    hidden = split(cohort, wishes).data["hidden"]
    manual = {case: (cohort.folder / "labelsHidden" / f"{case}.nii.gz").read_bytes() for case in hidden}
    aggregate(cohort, hidden)
    split(RawDataset(cohort.folder), wishes)
    assert names(cohort.folder / "labelsTr") == names(cohort.folder / "imagesTr")
    split(RawDataset(cohort.folder), Wishes(folds=3, labelled=6, overwrite=True))
    for case, content in manual.items():
        places = [cohort.folder / name / f"{case}.nii.gz" for name in ("labelsTr", "labelsHidden")]
        assert content in [place.read_bytes() for place in places if place.is_file()]
    assert len({person(case) for case in consensus.manual_cases(cohort)}) == 6


@pytest.mark.heavy
def test_killed_at_any_move_and_run_again(cohort: RawDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    copies = {}
    wishes = Wishes(folds=2, test=3, labelled=4, stratify=["sex"])
    for stop in (None, 0, 1, 4, 7, 11, 15):
        folder = tmp_path / f"run_{stop}" / "nnUNet_raw" / cohort.name
        shutil.copytree(cohort.folder, folder)
        monkeypatch.setenv("nnUNet_preprocessed", str(folder.parents[1] / "nnUNet_preprocessed"))
        if stop is not None:
            with monkeypatch.context() as patch:
                patch.setattr(split_record, "_move", killed_after(stop, split_record._move))
                with pytest.raises(KeyboardInterrupt):
                    split(RawDataset(folder), wishes)
        split(RawDataset(folder), wishes)
        copies[stop] = tree(RawDataset(folder))
    assert all(copy == copies[None] for copy in copies.values())


def killed_after(number: int, move):  # type: ignore[no-untyped-def]
    left = [number]

    def moving(file: Path, folder: Path, **options: bool) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        move(file, folder, **options)

    return moving


def test_other_splits_are_not_replaced_silently(cohort: RawDataset):
    split(cohort, Wishes(folds=3))
    before = tree(cohort)
    with pytest.raises(DatasetError, match=r"splits_final\.json of Dataset702_People is there already"):
        split(cohort, Wishes(folds=3, seed=1, test=2))
    assert tree(cohort) == before
    split(cohort, Wishes(folds=3, seed=1, overwrite=True))
    assert tree(cohort)["splits"] != before["splits"]


@pytest.mark.heavy
def test_cases_that_left_traces_are_not_set_aside(cohort: RawDataset, nnunet_folders: Path):
    wishes = Wishes(folds=2, test=4)
    data = nnunet_folders / "nnUNet_preprocessed" / cohort.name / "nnUNetPlans_2d"
    data.mkdir(parents=True)
    for case in names(cohort.folder / "imagesTr"):
        (data / f"{case}.pkl").touch()
    with pytest.raises(DatasetError, match="preprocessed already"):
        split(cohort, wishes)
    for file in data.iterdir():
        file.unlink()
    case = "toy_000"
    everybody = toy_teacher(cohort, "t1")
    with pytest.raises(DatasetError, match="Teacher 't1' has already segmented 8 of the 8 cases"):
        split(cohort, wishes)
    for file in everybody.folder.iterdir():
        file.unlink()
    for case in names(cohort.folder / "imagesTr"):
        (cohort.folder / "labelsTr" / f"{case}.nii.gz").unlink()
    aggregate(cohort, sorted(names(cohort.folder / "imagesTr")))
    with pytest.raises(DatasetError, match="consensus for 8 of the 8"):
        split(cohort, wishes)
    assert not (cohort.folder / "imagesTs").exists()


def test_a_case_name_that_imagests_already_has(cohort: RawDataset):
    (cohort.folder / "imagesTs").mkdir()
    for case in names(cohort.folder / "imagesTr"):
        (cohort.folder / "imagesTs" / f"{case}_0000.nii.gz").touch()
    with pytest.raises(DatasetError, match="already has a case 'toy_"):
        split(cohort, Wishes(folds=2, test=2))
    report = split(cohort, Wishes(folds=2))
    assert report.lines[-1].startswith("warning: 12 participant(s) have cases in imagesTr and in the imagesTs")


def test_bad_wishes(cohort: RawDataset, dataset: RawDataset):
    before = tree(cohort)
    with pytest.raises(ParticipantsError, match=r"needs participants\.tsv in Dataset701_Toy"):
        split(dataset, Wishes(folds=2, stratify=["sex"]))
    with pytest.raises(ParticipantsError, match=r"in the column 'bmi'\. The columns with values are sex, age"):
        split(cohort, Wishes(stratify=["bmi"]))
    with pytest.raises(ParticipantsError, match="13 folds need at least 13 participants, but there are 12"):
        split(cohort, Wishes(folds=13))
    for everybody in (12, 0.99):
        with pytest.raises(ParticipantsError, match="both need at least one"):
            split(cohort, Wishes(test=everybody))
    with pytest.raises(ParticipantsError, match="5 folds need at least 5 participants, but there are 2"):
        split(cohort, Wishes(test=10))
    with pytest.raises(SettingError, match="not stratified by"):
        split(cohort, Wishes(bins={"age": [30]}))
    for file in (dataset.folder / "labelsTr").iterdir():
        file.unlink()
    with pytest.raises(ParticipantsError, match="--labelled needs manual label maps"):
        split(dataset, Wishes(folds=2, labelled=1))
    assert tree(cohort) == before


def test_a_broken_record_is_named(cohort: RawDataset):
    (cohort.folder / "split.json").write_text("{}}")
    with pytest.raises(DatasetError, match="Restore it"):
        split(cohort, Wishes())


def test_command(cohort: RawDataset, capsys: pytest.CaptureFixture):
    assert main(["-d", "702", "--folds", "3", "--test", "0.25", "--stratify", "sex", "age", "--bins", "age=30,40"]) == 0
    said = capsys.readouterr().out
    assert "test (imagesTs): 3 participants (6 cases)" in said
    assert "  age 30-40: " in said
    assert main(["-d", "702", "--folds", "40"]) == 1
    assert "40 folds need" in capsys.readouterr().err
    for wrong in ("age", "age=", "age=40,30", "=3", "age=x"):
        with pytest.raises(SystemExit, match="2"):
            main(["-d", "702", "--bins", wrong])


def test_unwritable_folder_is_one_sentence(cohort: RawDataset, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(split_record.os, "replace", lambda a, b: refuse() if ".nii" in str(a) else os.rename(a, b))
        with pytest.raises(DatasetError, match=r"could not be moved to labelsTs \(Permission denied\)"):
            split(cohort, Wishes(folds=2, test=3))
    split(cohort, Wishes(folds=2, test=3))
    assert len(names(cohort.folder / "imagesTs")) == 6


def test_shots(cohort: RawDataset, capsys: pytest.CaptureFixture):
    assert main(["-d", "702", "--shots", "3", "--folds", "4"]) == 0
    folds = json.loads(splits_file(cohort).read_text())
    drawn = [{person(case) for case in fold["train"]} for fold in folds]
    assert [len(fold["train"]) for fold in folds] == [6] * 4
    assert len(set().union(*drawn)) == 12
    assert "fold 0: 3 participants (6 cases) to train, 9 participants (18 cases) to validate" in capsys.readouterr().out
    before = tree(cohort)
    for arguments, sentence in (
        (["--shots", "0"], "0 shots were asked for, but at least 1 is needed"),
        (["--shots", "3", "--stratify", "sex"], "--shots 3 draws a few people at random"),
        (["--shots", "12"], "12 shots need 12 labelled participants in each fold and another one"),
    ):
        assert main(["-d", "702", "--overwrite", *arguments]) == 1
        assert sentence in capsys.readouterr().err
    assert tree(cohort) == before


def test_shots_need_label_maps_and_say_which_folds_are_alike(cohort: RawDataset, capsys: pytest.CaptureFixture):
    assert main(["-d", "702", "--shots", "11", "--folds", "13"]) == 0  # there are twelve different ones
    assert "(the same as fold" in capsys.readouterr().out
    for file in (cohort.folder / "labelsTr").iterdir():
        file.unlink()
    assert main(["-d", "702", "--shots", "3", "--overwrite"]) == 1
    assert "labelsTr of Dataset702_People holds none" in capsys.readouterr().err


def test_people_whose_label_maps_are_hidden_are_no_shots(cohort: RawDataset):
    split(cohort, Wishes(labelled=4, shots=2, folds=2))
    folds = json.loads(splits_file(cohort).read_text())
    assert {case for fold in folds for case in fold["train"]} == names(cohort.folder / "labelsTr")


def test_files_are_counted_after_cases_have_moved(cohort: RawDataset):
    (cohort.folder / "imagesTr" / ".DS_Store").write_bytes(b"x")
    (cohort.folder / "labelsTr" / "toy_000.NII.GZ").write_bytes(b"x")
    report = split(cohort, Wishes(folds=2, test=0.5))
    assert [count.line for count in report.folders] == [
        "imagesTr: 13 files came in: 12 used, 1 set aside (system file: .DS_Store)",
        "labelsTr: 13 files came in: 12 used, 1 not understood (toy_000.NII.GZ)",
        "imagesTs: 12 files came in: 12 used",
        "labelsTs: 12 files came in: 12 used",
    ]
