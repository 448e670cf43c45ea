"""Tests of nnkd.votes.consensus."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import toy_teacher

from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.errors import DatasetError
from nnkd.votes import consensus

VOXELS = itertools.count()


def write(dataset, case: str, value: int, inputs: dict | None = None) -> bool:
    _, grid, properties = dataset.images().read(case)
    label_map = np.full(grid.shape, value, dtype=np.uint8)
    return consensus.write(dataset, case, label_map, properties, teachers=["a"], inputs=inputs or {"a/x": str(value)})


def edit(dataset, case: str) -> None:
    label_map, _, properties = dataset.spec.read_label_map(dataset.label_file(case))
    voxel = next(VOXELS)  # another one each time: to undo an edit is no edit
    label_map.flat[voxel] = 2 - label_map.flat[voxel] // 2
    dataset.spec.write_label_map(label_map, dataset.label_file(case), properties)


def test_only_what_the_file_lists_with_its_hash_is_a_consensus(dataset):
    assert consensus.manual_cases(dataset) == ["toy_000", "toy_001"]
    assert write(dataset, "toy_002", 1)
    assert consensus.manual_cases(dataset) == ["toy_000", "toy_001"]
    assert consensus.read(dataset).cases["toy_002"].teachers == ["a"]
    edit(dataset, "toy_002")
    assert consensus.manual_cases(dataset) == ["toy_000", "toy_001", "toy_002"]


def test_manual_label_maps_are_never_overwritten(dataset):
    before = dataset.label_file("toy_000").read_bytes()
    assert not write(dataset, "toy_000", 1)
    assert dataset.label_file("toy_000").read_bytes() == before
    assert not consensus.read(dataset).cases
    assert not [p for p in dataset.label_file("toy_000").parent.iterdir() if p.name.startswith(".")]


def test_a_consensus_is_stale_if_inputs_changed_or_it_is_gone(dataset):
    assert consensus.is_stale(dataset, "toy_002", {"a/x": "1"})
    write(dataset, "toy_002", 1)
    assert not consensus.is_stale(dataset, "toy_002", {"a/x": "1"})
    assert consensus.is_stale(dataset, "toy_002", {"a/x": "2"})
    assert consensus.is_stale(dataset, "toy_002", {"a/x": "1", "b/x": "1"})
    assert not consensus.is_stale(dataset, "toy_000", {"a/x": "1"})  # manual
    edit(dataset, "toy_002")
    assert not consensus.is_stale(dataset, "toy_002", {"a/x": "2"})
    dataset.label_file("toy_002").unlink()
    assert consensus.is_stale(dataset, "toy_002", {"a/x": "1"})


def test_killed_between_listing_and_moving_the_old_consensus_is_no_manual_label(dataset, monkeypatch):
    write(dataset, "toy_002", 1)
    with monkeypatch.context() as patch:
        really = consensus.write_json
        patch.setattr(consensus, "write_json", lambda *a: really(*a) or 1 // 0)
        with pytest.raises(ZeroDivisionError):
            write(dataset, "toy_002", 2)
    assert (dataset.spec.read_label_map(dataset.label_file("toy_002"))[0] == 1).all()
    assert "toy_002" not in consensus.manual_cases(dataset)
    assert consensus.is_stale(dataset, "toy_002", {"a/x": "2"})
    with consensus.writing(dataset):
        assert write(dataset, "toy_002", 2)
    assert consensus.read(dataset).cases["toy_002"].previous_sha256 is None


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["write 1", "write 2", "edit", "delete"]), max_size=6))
def test_whatever_happens_an_edit_stays_until_it_is_deleted(dataset, actions):
    dataset.label_file("toy_003").unlink(missing_ok=True)
    dataset.consensus_file().unlink(missing_ok=True)
    edited = False
    for action in actions:
        there = dataset.label_file("toy_003").is_file()
        if action.startswith("write"):
            assert write(dataset, "toy_003", int(action[-1])) != edited
        elif action == "edit" and there:
            edit(dataset, "toy_003")
            edited = True
        elif action == "delete" and there:
            dataset.label_file("toy_003").unlink()
            edited = False
        assert ("toy_003" in consensus.manual_cases(dataset)) == edited


def test_inputs_tell_abstentions_from_empty_answers(dataset):
    one = toy_teacher(dataset, "one").manifest()
    two = toy_teacher(dataset, "two", answers=["liver"], cases=["toy_001"]).manifest()
    spec = dataset.spec
    assert set(consensus.inputs_of({"one": one, "two": two}, "toy_000", spec)) == {"one/toy_000", consensus.LABELS}
    before = consensus.inputs_of({"one": one, "two": two}, "toy_001", spec)
    assert set(before) == {"one/toy_001", "two/toy_001", "two/toy_001 answers", consensus.LABELS}
    two.cases["toy_001"].answers.append("spleen")
    assert consensus.inputs_of({"one": one, "two": two}, "toy_001", spec) != before


def test_stale_cases_follow_the_teachers(dataset):
    assert list(consensus.stale_cases(dataset)) == []
    manifests = {name: toy_teacher(dataset, name).manifest() for name in ("one", "two")}
    inputs = consensus.inputs_of(manifests, "toy_002", dataset.spec)
    with consensus.writing(dataset):
        write(dataset, "toy_002", 1, inputs)
    assert list(consensus.stale_cases(dataset)) == []
    toy_teacher(dataset, "three")
    assert list(consensus.stale_cases(dataset)) == ["toy_002"]
    with consensus.writing(dataset, chosen=["two", "one"]):
        pass
    assert list(consensus.stale_cases(dataset)) == []
    toy_teacher(dataset, "one", shift=2)
    assert list(consensus.stale_cases(dataset)) == ["toy_002"]


def relabelled(dataset, labels: dict, **more) -> RawDataset:
    """The same dataset, after somebody edited dataset.json."""
    write_dataset_json(dataset.folder, ["CT"], {"background": 0, **labels}, ".nii.gz", 4, **more)
    return RawDataset(dataset.folder)


OTHERS = [
    {"liver": 2, "spleen": 1},
    {"Liver": 1, "spleen": 2},
    {"liver": 1, "spleen": 2, "kidney": 3},
]


@pytest.mark.parametrize("teachers_left", [True, False])
@pytest.mark.parametrize("labels", OTHERS)
def test_a_consensus_of_other_labels_does_not_hold(dataset, labels, teachers_left):
    manifests = {"one": toy_teacher(dataset, "one").manifest()}
    with consensus.writing(dataset):
        write(dataset, "toy_002", 1, consensus.inputs_of(manifests, "toy_002", dataset.spec))
    if not teachers_left:
        shutil.rmtree(dataset.teachers_folder())
    assert consensus.stale_cases(dataset) == {}
    assert consensus.stale_cases(relabelled(dataset, {"liver": 1, "spleen": 2, "ignore": 3})) == {}
    stale = consensus.stale_cases(relabelled(dataset, labels))
    assert "changed meaning of the labels" in stale["toy_002"]


def test_a_consensus_that_an_older_version_made_holds_as_long_as_its_teachers_files_do(dataset, caplog):
    """Such as with integers exchanged after it was made: imported masks have the same integers as before, and so has
    the consensus; what they mean stands in the teacher's new manifest."""
    manifests = {"one": toy_teacher(dataset, "one").manifest()}
    inputs = consensus.inputs_of(manifests, "toy_002", dataset.spec)
    del inputs[consensus.LABELS]
    with consensus.writing(dataset):
        write(dataset, "toy_002", 1, inputs)
    assert consensus.stale_cases(dataset) == {}
    assert "onsensus" not in caplog.text
    exchanged = relabelled(dataset, OTHERS[0])
    assert consensus.stale_cases(exchanged) == {}
    shutil.rmtree(dataset.teachers_folder())
    toy_teacher(exchanged, "one", shift=1)
    assert "changed one/toy_002" in consensus.stale_cases(exchanged)["toy_002"]
    shutil.rmtree(dataset.teachers_folder())
    assert consensus.stale_cases(exchanged) == {}
    assert "does not say what the integers of 1 label map(s) meant" in caplog.text


def test_one_writer_at_a_time_and_no_leftovers(dataset):
    leftover = dataset.folder / "labelsTr" / ".writing-123-toy_002.nii.gz"
    leftover.write_bytes(b"half")
    with consensus.writing(dataset):
        assert not leftover.exists()
        with pytest.raises(DatasetError, match="Another nnKD_aggregate"), consensus.writing(dataset):
            pass
    write(dataset, "toy_002", 1)
    dataset.label_file("toy_002").unlink()
    with consensus.writing(dataset):
        pass
    assert consensus.read(dataset).cases == {}


def test_a_broken_file_is_named(dataset):
    dataset.consensus_file().write_text(json.dumps({"schema_version": 2, "cases": {}}))
    with pytest.raises(DatasetError, match=r"consensus\.json.*schema_version"):
        consensus.manual_cases(dataset)


def test_what_labels_inherit(dataset):
    assert consensus.inherited(dataset) == ([], False)
    for name in ("a", "b"):
        toy_teacher(dataset, name)
    write(dataset, "toy_002", 1)
    models, told = consensus.inherited(dataset)
    assert ([model.name for model in models], told) == (["a"], False)  # b took part in no vote
    assert consensus.inherited_of([dataset.name, dataset.name, "Dataset999_NotHere"]) == (models, told)
    edit(dataset, "toy_002")
    assert consensus.inherited(dataset) == ([], False)
