"""Tests of nnkd.steps.plan_and_preprocess and of its command: nnU-Net's own planner and preprocessor, on toy data."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import blosc2
import numpy as np
import pytest
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from planned import sample_few
from toy import toy_dataset, toy_teacher, write_image

from nnkd import files
from nnkd.cli import aggregate
from nnkd.cli.plan_and_preprocess import main
from nnkd.data.dataset import RawDataset
from nnkd.votes.folder import VotesFolder

pytestmark = pytest.mark.heavy

NAME = "Dataset701_Toy"
NAMES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def call(*arguments, configurations=("2d", "3d_fullres")) -> int:
    return main(["-d", "701", "-c", *configurations, "-npfp", "1", "-np", "1", *map(str, arguments)])


def settings(patch, folder: Path) -> None:
    for name in NAMES:
        (folder / name).mkdir(exist_ok=True)
        patch.setenv(name, str(folder / name))
    patch.setenv("nnUNet_def_n_proc", "1")
    sample_few(patch)
    patch.setenv("nnUNet_n_proc_DA", "0")  # for training; planning must not stumble over it


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A dataset that was planned and preprocessed once, with two teachers and one manual label map."""
    folder = tmp_path_factory.mktemp("planned")
    with pytest.MonkeyPatch.context() as patch:
        settings(patch, folder)
        dataset = toy_dataset(folder / "nnUNet_raw" / NAME, labelled=1, channels=("MRI",))
        (dataset.folder / "participants.tsv").write_text("participant_id\tsex\np0\tF\np1\tM\n")
        rows = "".join(f"toy_{i:03d}\tp{i // 2}\n" for i in range(4))
        (dataset.folder / "cases.tsv").write_text("case\tparticipant_id\n" + rows)
        for index in range(2):
            toy_teacher(dataset, f"t{index}", shift=index, seed=index)
        assert aggregate.main(["-d", "701"]) == 0
        assert call() == 0
        assert os.environ["nnUNet_n_proc_DA"] == "0"
    return folder


@pytest.fixture
def planned(original, tmp_path, monkeypatch):
    """A copy of it; the raw dataset."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    settings(monkeypatch, tmp_path)
    return RawDataset(tmp_path / "nnUNet_raw" / NAME)


def target_of(dataset: RawDataset) -> Path:
    return dataset.folder.parents[1] / "nnUNet_preprocessed" / NAME


def changes(folder: Path) -> dict[str, int]:
    return {
        str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".b2nd", ".pkl")
    }


def changed_cases(before: dict[str, int], folder: Path) -> set[str]:
    after = changes(folder)
    return {Path(name).name[:7] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def content(folder: Path) -> dict[str, object]:
    """All that matters of a preprocessed dataset, comparable."""
    found: dict[str, object] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock")):
        name = str(file.relative_to(folder))
        if file.suffix == ".b2nd":
            array = blosc2.open(urlpath=str(file), mode="r")[:]
            found[name] = (array.dtype.str, array.shape, array.tobytes())
        elif file.suffix == ".pkl":
            found[name] = str(load_pickle(str(file)))
        elif file.suffix == ".json":
            found[name] = json.loads(file.read_text())
        else:
            found[name] = file.read_bytes()
    return found


def test_a_configuration_that_was_not_planned_is_no_success(planned, capsys):
    """Of several it is passed over and said, as nnU-Net does it."""
    assert call("-plans_name", "nnUNetPlans", configurations=("3d_lowres",)) == 1
    assert "have no configuration 3d_lowres, so nothing was preprocessed; they have 2d" in capsys.readouterr().err


def test_votes_labels_and_participants_come_along(planned):
    folder = target_of(planned)
    for name in ("2d", "3d_fullres"):
        votes = VotesFolder.of(folder, f"nnUNetPlans_{name}")
        assert votes.index.teachers == ["t0", "t1"]
        assert votes.index.manual == ["toy_000"]
        assert sorted(votes.index.cases) == [f"toy_{i:03d}" for i in range(4)]
        seg = blosc2.open(urlpath=str(folder / f"nnUNetPlans_{name}" / "toy_001_seg.b2nd"), mode="r")[:]
        bits = votes.open("toy_001")[:]
        assert bits.shape == (2, *seg.shape[1:])
        assert set(np.unique(bits)) == {0, 1, 2, 3}
        names = {p.name for p in (folder / f"nnUNetPlans_{name}").iterdir()}
        assert names == {f"toy_{i:03d}{e}" for i in range(4) for e in (".b2nd", "_seg.b2nd", ".pkl")}
    assert len(list((folder / "gt_segmentations").iterdir())) == 4
    for file in ("participants.tsv", "cases.tsv", "dataset.json"):
        assert (folder / file).read_bytes() == (planned.folder / file).read_bytes()


def test_a_second_run_does_nothing(planned, capsys):
    before = changes(target_of(planned))
    whole = content(target_of(planned))
    assert call() == 0
    assert changes(target_of(planned)) == before
    assert content(target_of(planned)) == whole
    assert "2d: 0 case(s) preprocessed, 4 up to date, votes of t0, t1" in capsys.readouterr().out


def test_a_changed_teacher_redoes_its_case_alone(planned, capsys):
    before = changes(target_of(planned))
    toy_teacher(planned, "t0", shift=2, seed=0, cases=["toy_002"])
    assert call() == 1  # the consensus is older
    error = capsys.readouterr().err
    assert "The consensus of 1 case(s) in labelsTr (such as toy_002) no longer holds (changed t0/toy_002)" in error
    assert error.count("\n") == 1
    assert aggregate.main(["-d", "701"]) == 0
    assert call() == 0
    assert changed_cases(before, target_of(planned)) == {"toy_002"}
    assert "2d: 1 case(s) preprocessed, 3 up to date" in capsys.readouterr().out


def test_votes_about_an_image_that_was_replaced_since_are_refused(planned, capsys):
    shutil.copyfile(planned.images().files("toy_003")[0], planned.images().files("toy_000")[0])
    assert call() == 1
    said = capsys.readouterr().err
    assert "Teachers' votes for 1 case(s) (such as toy_000) no longer hold. 'toy_000_0000.nii.gz' changed since" in said


def test_a_changed_manual_label_redoes_its_case_alone(planned):
    folder = target_of(planned)
    before = changes(folder)
    label_map, _, _ = planned.spec.read_label_map(planned.label_file("toy_003"))
    label_map[:2] = 1
    write_image(label_map.astype(np.uint8), planned.label_file("toy_003"))
    assert call() == 0
    assert changed_cases(before, folder) == {"toy_003"}
    assert VotesFolder.of(folder, "nnUNetPlans_2d").index.manual == ["toy_000", "toy_003"]
    truth = folder / "gt_segmentations" / "toy_003.nii.gz"
    assert truth.read_bytes() == planned.label_file("toy_003").read_bytes()


def test_a_new_teacher_redoes_votes_alone(planned):
    folder = target_of(planned)
    toy_teacher(planned, "t2", shift=3)
    assert aggregate.main(["-d", "701", "-t", "t0", "t1"]) == 0  # labelsTr stays as it was
    before = changes(folder)
    assert call() == 0
    assert changes(folder) == before  # t2 is no teacher of labelsTr
    assert call("-t", "t0", "t1", "t2") == 0
    after = changes(folder)
    assert {n for n in after if after[n] != before[n]} == {n for n in after if "_votes" in n}
    assert VotesFolder.of(folder, "nnUNetPlans_2d").index.teachers == ["t0", "t1", "t2"]


def test_more_teachers_than_can_vote_are_refused_before_planning_or_chosen(planned, capsys):
    for number in range(2, 18):
        shutil.copytree(planned.teachers_folder() / "t0", planned.teachers_folder() / f"t{number}")
    for file in planned.teachers_folder().glob("t*/manifest.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "name": file.parent.name}))
    before = changes(target_of(planned))
    assert call("--clean", configurations=["2d"]) == 1
    assert "18 teachers came, but 1 to 16 can vote together. Choose them with -t." in capsys.readouterr().err
    assert call("-t", "t1", "t0", configurations=["2d"]) == 1  # labelsTr is of others now
    assert aggregate.main(["-d", "701", "-t", "t0", "t1"]) == 0
    assert call(configurations=["2d"]) == 0
    assert changes(target_of(planned)) == before


def test_a_removed_image_disappears(planned):
    (planned.folder / "imagesTr" / "toy_001_0000.nii.gz").unlink()
    planned.label_file("toy_001").unlink()
    assert call() == 0
    assert len(json.loads((target_of(planned) / "dataset_fingerprint.json").read_text())["spacings"]) == 3
    left = [p.name for p in target_of(planned).rglob("toy_001*") if p.parent.name != "gt_segmentations"]
    assert left == []
    assert "toy_001" not in VotesFolder.of(target_of(planned), "nnUNetPlans_2d").index.cases


def test_two_processes(planned, capsys):
    expected = content(target_of(planned))
    for name in ("nnUNetPlans_2d", "nnUNetPlans_2d_votes"):
        shutil.rmtree(target_of(planned) / name)
    assert main(["-d", "701", "-c", "2d", "-np", "2"]) == 0
    assert "2d: 4 case(s) preprocessed" in capsys.readouterr().out
    assert content(target_of(planned)) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-pl", "nnUNetPlannerResEncX"], "-pl names 'nnUNetPlannerResEncX'"),
        (["-fpe", "Nobody"], "-fpe names 'Nobody'"),
        (["-preprocessor_name", "Nobody"], "-preprocessor_name names 'Nobody'"),
        (["-np", "1", "2", "3"], "-np got 3 numbers for 2 configurations"),
        (["--no_pp", "--auxiliaries", "Dataset801_Other"], "--no_pp preprocesses none"),
        (["-t", "t0", "nobody"], "There is no teacher 'nobody'"),
    ],
)
def test_bad_arguments_get_one_sentence(planned, capsys, arguments, sentence):
    assert call(*arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_a_missing_label_or_channel_gets_one_sentence(planned, capsys):
    planned.label_file("toy_002").unlink()
    assert call() == 1
    assert (
        "1 of 4 training cases of Dataset701_Toy have neither a manual label nor a consensus" in capsys.readouterr().err
    )
    image = planned.folder / "imagesTr" / "toy_002_0000.nii.gz"
    image.rename(image.with_name("toy_002_0001.nii.gz"))
    assert call() == 1
    error = capsys.readouterr().err
    assert "Case 'toy_002' has 1 image (toy_002_0001.nii.gz)" in error
    assert error.count("\n") == 1


def test_what_is_no_case_is_named_and_nnunet_does_not_see_it(planned, capsys):
    raw, folder = planned.folder, target_of(planned)
    for name in ("._toy_000_0000.nii.gz", "toy_009.nii.gz", "toy_8_0000.NII.GZ", "notes.txt", ".DS_Store"):
        (raw / "imagesTr" / name).write_bytes(b"x")
    shutil.copy(planned.label_file("toy_000"), planned.label_file("toy_099"))
    shutil.copytree(raw / "teachersTr" / "t0", raw / "teachersTr" / "masks")
    (raw / "teachersTr" / "masks" / "manifest.json").unlink()
    shutil.copy(planned.label_file("toy_000"), raw / "teachersTr" / "t1" / "toy_099.nii.gz")
    (folder / "dataset_fingerprint.json").unlink()  # nnU-Net lists imagesTr once more
    assert call(configurations=["2d"]) == 3
    assert len(json.loads((folder / "dataset_fingerprint.json").read_text())["shapes_after_crop"]) == 4
    said = capsys.readouterr()
    assert said.out.splitlines()[-5:] == [
        "imagesTr: 9 files came in: 4 used, 2 set aside (shadow file of macOS: ._toy_000_0000.nii.gz; system file: "
        ".DS_Store), 3 not understood (notes.txt, toy_009.nii.gz, toy_8_0000.NII.GZ)",
        "labelsTr: 5 files came in: 4 used, 1 not understood (toy_099.nii.gz)",
        "teachersTr: 4 folders came in: 2 used, 1 set aside (file of nnkd or nnU-Net: agreement.json), 1 not "
        "understood (masks)",
        "teachersTr/t0: 7 files came in: 4 used, 3 set aside (file of nnkd or nnU-Net: .manifest.lock, .nnkd-written, "
        "manifest.json)",
        "teachersTr/t1: 8 files came in: 4 used, 3 set aside (file of nnkd or nnU-Net: .manifest.lock, .nnkd-written, "
        "manifest.json), 1 not understood (toy_099.nii.gz)",
    ]
    assert "toy_009.nii.gz in imagesTr: it lacks the number of its channel" in said.err
    assert "toy_099.nii.gz in labelsTr: imagesTr has no image of its case" in said.err


def test_names_that_nnunets_files_have_are_refused(planned, capsys):
    image = planned.folder / "imagesTr" / "toy_002_0000.nii.gz"
    for name, says in (("toy_000_seg", "ends with _seg"), ("TOY_001", "differ only in capitals")):
        other = image.with_name(f"{name}_0000.nii.gz")
        shutil.copy(image, other)
        assert call() == 1
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        other.unlink()


def test_a_truncated_image_gets_one_sentence(planned, capsys):
    image = planned.folder / "imagesTr" / "toy_002_0000.nii.gz"
    image.write_bytes(image.read_bytes()[:300])
    assert call() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: 'toy_002_0000.nii.gz' in imagesTr is truncated")
    assert error.count("\n") == 1


def test_a_case_nnunet_refuses_stops_planning_and_leaves_the_others(planned, capfd):
    label_map, _, _ = planned.spec.read_label_map(planned.label_file("toy_003"))
    write_image(label_map[:-1].astype(np.uint8), planned.label_file("toy_003"))
    before = changes(target_of(planned))
    assert call(configurations=["2d"]) == 1
    assert "error: The label map 'toy_003.nii.gz' does not lie" in capfd.readouterr().err.strip().splitlines()[-1]
    assert call("-plans_name", "nnUNetPlans", configurations=["2d"]) == 3
    said = capfd.readouterr()
    assert "1 case(s) failed:\n  toy_003: The label map 'toy_003.nii.gz' does not lie on its image's grid" in said.err
    assert "2d: 0 case(s) preprocessed, 3 up to date, 1 failed, votes of t0, t1 (1 made anew: changed" in said.out
    assert changed_cases(before, target_of(planned)) == set()


@pytest.mark.parametrize("what", ["value", "spacing"])
def test_a_label_map_that_nnunet_would_take_unseen_fails_alone(planned, capfd, what):
    label_map, _, _ = planned.spec.read_label_map(planned.label_file("toy_000"))
    label_map[0, 0, 0] = 9 if what == "value" else 0
    spacing = (2.0, 1.0, 1.0) if what == "value" else (2.0, 1.5, 1.0)
    write_image(label_map.astype(np.uint8), planned.label_file("toy_000"), spacing)
    assert call() == 3
    expected = "holds the value 9, but dataset.json" if what == "value" else "does not lie on its image's grid"
    assert expected in capfd.readouterr().err


def test_half_written_plans_and_fingerprint_are_made_anew(planned, monkeypatch):
    expected = content(target_of(planned))
    for name in ("dataset_fingerprint.json", "nnUNetPlans.json"):
        file = target_of(planned) / name
        file.write_bytes(file.read_bytes()[:100])
    leftover = target_of(planned) / ".writing-nnUNetPlans_2d-toy_001"
    leftover.mkdir()
    (leftover / "toy_001.pkl").write_bytes(b"half")
    assert call() == 0
    assert content(target_of(planned)) == expected


def test_a_broken_split_is_named_and_not_removed(planned, capsys):
    (target_of(planned) / "splits_final.json").write_text("[{")
    assert call() == 1
    assert "splits_final.json of Dataset701_Toy is no valid JSON" in capsys.readouterr().err
    assert (target_of(planned) / "splits_final.json").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a process at a chosen moment")
def test_killed_at_any_file_move_it_ends_the_same(planned, tmp_path, monkeypatch):
    folder = target_of(planned)
    expected = content(folder)
    for name in ("nnUNetPlans_2d", "nnUNetPlans_2d_votes", "gt_segmentations"):
        shutil.rmtree(folder / name)
    (folder / "nnUNetPlans_2d_inputs.json").unlink()
    toy_teacher(planned, "t0", shift=0, seed=0)
    start = tmp_path / "start"
    shutil.copytree(folder, start)
    rng = np.random.default_rng(0)
    for moment in sorted(rng.choice(60, 5, replace=False).tolist()):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        child = os.fork()
        if child == 0:
            _run_and_die(moment)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), f"move {moment} was never reached"
        assert call(configurations=["2d"]) == 0
        assert content(folder) == expected, moment


def _run_and_die(moment: int) -> None:
    """In a child process: SIGKILL just before one of the file moves, or just after."""
    moves, really = iter(range(10000)), os.replace

    def replace(source, target):
        move = next(moves)
        if move * 2 == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        really(source, target)
        if move * 2 + 1 == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    try:
        call(configurations=["2d"])
    finally:
        os._exit(0)


def test_a_full_disk_stops_with_one_sentence_and_continues(planned, monkeypatch, capsys):
    folder = target_of(planned)
    expected = content(folder)
    shutil.rmtree(folder / "nnUNetPlans_2d")
    shutil.rmtree(folder / "nnUNetPlans_2d_votes")
    really, moves = os.replace, iter(range(1000))

    def replace(source, target):
        if next(moves) >= 18:
            raise OSError(errno.ENOSPC, "No space left on device")
        really(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        assert call(configurations=["2d"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert not [p for p in folder.rglob("*") if p.name.startswith(".writing")]
    assert call(configurations=["2d"]) == 0
    assert content(folder) == expected


def test_edited_plans_are_preprocessed_as_they_are(planned):
    folder = Path(os.environ["nnUNet_preprocessed"]) / NAME
    before = (folder / "nnUNetPlans.json").read_bytes()
    plans = json.loads(before)
    plans |= {"plans_name": "turned", "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    plans["configurations"] = {"2d": {**plans["configurations"]["2d"], "data_identifier": "turned_2d"}}
    (folder / "turned.json").write_text(json.dumps(plans))
    assert call("-plans_name", "turned", configurations=("2d",)) == 0
    assert (folder / "nnUNetPlans.json").read_bytes() == before
    votes = blosc2.open(str(folder / "turned_2d_votes" / "toy_001.b2nd"))[:]
    image = blosc2.open(str(folder / "turned_2d" / "toy_001.b2nd"))[:]
    assert votes.shape[1:] == image.shape[1:]
    straight = blosc2.open(str(folder / "nnUNetPlans_2d_votes" / "toy_001.b2nd"))[:]
    assert votes.shape[1] != straight.shape[1]  # another axis is sliced
    assert (votes == 1).mean() == pytest.approx((straight == 1).mean(), rel=0.2)  # resampled from 2 mm to 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: None, "has no plans 'mine'"),
        (lambda folder: (folder / "mine.json").write_text('{"plans_name": "yours"}'), "its plans_name is 'yours'"),
        (lambda folder: (folder / "mine.json").write_text('{"nnkd": {"base": "nnUNetPlans"}}'), "is a recipe"),
    ],
)
def test_plans_that_cannot_be_preprocessed_are_one_sentence(planned, capsys, change, says):
    change(Path(os.environ["nnUNet_preprocessed"]) / NAME)
    assert call("-plans_name", "mine", configurations=("2d",)) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.strip().count("\n") == 0
