"""nnU-Net's training reads files of others as nnkd does."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from nnunetv2.run import run_training
from nnunetv2.training.dataloading import nnunet_dataset
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as trainer_module

from nnkd.errors import FileError, WeightsError
from nnkd.training.guard import guarded


class Evil:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A preprocessed case as nnU-Net stores it, and what a previous stage said of it."""
    blosc2 = pytest.importorskip("blosc2")
    monkeypatch.chdir(tmp_path)
    for name in ("pre/a.b2nd", "pre/a_seg.b2nd", "previous/a.b2nd"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        blosc2.asarray(np.ones((1, 2, 4, 4), np.float32), urlpath=str(file), mode="w")
    (tmp_path / "pre/a.pkl").write_bytes(pickle.dumps({"spacing": [1.0, 1.0, 1.0], "places": np.arange(3)}))
    return tmp_path / "pre"


def load(folder, previous=None):
    return trainer_module.infer_dataset_class(str(folder))(str(folder), ["a"], previous).load_case("a")


def test_clean_cases_pass(folder):
    with guarded():
        data, seg, before, properties = load(folder, str(folder.parent / "previous"))
    assert data.shape == seg.shape == before.shape == (1, 2, 4, 4)
    assert properties["places"].tolist() == [0, 1, 2]


def test_the_pickle_of_a_case_runs_nothing(folder, tmp_path):
    (folder / "a.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "RAN")))
    with guarded(), pytest.raises(FileError, match=r"'a\.pkl' in pre is not read"):
        load(folder)
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("name", ["pre/a.b2nd", "pre/a_seg.b2nd", "previous/a.b2nd"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_arrays_that_are_no_files_of_numbers_are_not_opened(folder, tmp_path, name, as_folder):
    import blosc2

    array = blosc2.asarray(np.ones((4, 4)), urlpath="x.b2nd", mode="w")
    (tmp_path / name).unlink()
    if as_folder:
        storage = {"contiguous": False, "urlpath": str(tmp_path / name)}
        blosc2.asarray(np.ones((1, 2, 4, 4), np.float32), **storage)
    else:
        (array + 1).save(urlpath=str(tmp_path / name))
    with guarded(), pytest.raises(FileError, match=r"'a.*\.b2nd' in (pre|previous) holds an expression"):
        load(folder, str(tmp_path / "previous"))


def test_the_npz_of_an_earlier_version(folder, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    np.savez(old / "a.npz", data=np.ones((1, 2, 4, 4)), seg=np.zeros((1, 2, 4, 4)))
    shutil.copy(folder / "a.pkl", old)
    with guarded():
        assert load(old)[0].shape == (1, 2, 4, 4)
        (old / "a.pkl").write_bytes(pickle.dumps(Evil(tmp_path / "RAN")))
        with pytest.raises(FileError, match="is not read"):
            load(old)
    assert not (tmp_path / "RAN").exists()


def test_checkpoints_run_nothing_even_when_the_caller_asks_for_it(tmp_path):
    torch.save({"network_weights": {}, "logging": Evil(tmp_path / "RAN")}, tmp_path / "evil.pth")
    torch.save({"network_weights": {"a": torch.ones(2)}}, tmp_path / "clean.pth")
    with guarded():
        assert torch.load(tmp_path / "clean.pth", weights_only=False)["network_weights"]["a"].tolist() == [1, 1]
        with pytest.raises(WeightsError, match=r"'evil\.pth' in .* holds more than weights"):
            torch.load(tmp_path / "evil.pth", map_location="cpu", weights_only=False)
    assert not (tmp_path / "RAN").exists()


def test_everything_is_put_back():
    places = ((torch, "load"), (nnunet_dataset, "infer_dataset_class"), (trainer_module, "infer_dataset_class"),
              (run_training, "run_ddp"))  # fmt: skip
    before = [getattr(module, name) for module, name in places]

    def fail():
        assert all(getattr(module, name) is not kept for (module, name), kept in zip(places, before, strict=True))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), guarded():
        fail()
    assert [getattr(module, name) for module, name in places] == before
