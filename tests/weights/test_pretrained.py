"""-pretrained_weights from files that nnU-Net did not write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from nnkd.errors import WeightsError
from nnkd.networks.students import made_up_plans
from nnkd.plugin.students import Student
from nnkd.weights import pretrained


class Network(nn.Module):
    """Two layers, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
        self.decoder = nn.Module()
        self.decoder.seg_layers = nn.ModuleList([nn.Conv2d(2, 2, 1)])


class Reader(Student):
    """Reads files in which the first layer has another name."""

    takes_foreign_weights = True

    @staticmethod
    def build_network_architecture(plans_manager, configuration_manager, channels, heads, enable_deep_supervision=True):
        """A new one."""
        return Network()

    @staticmethod
    def foreign_weights(file, network):
        """One layer."""
        content = torch.load(file, weights_only=True)
        if "theirs" not in content:
            raise WeightsError(f"'{file.name}' is of another network.")
        assert set(network) == set(Network().state_dict())
        return {"first.weight": content["theirs"]}


@pytest.fixture
def preprocessed(tmp_path) -> Path:
    folder = tmp_path / "Dataset000_MadeUp"
    folder.mkdir()
    plans = made_up_plans((64, 64), 1, {})
    (folder / f"{plans['plans_name']}.json").write_text(json.dumps(plans))
    labels = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**labels, "numTraining": 1}))
    return folder


def of(folder):
    """Plans, configuration, dataset.json."""
    plans, dataset_json = (json.loads((folder / f"{n}.json").read_text()) for n in ("nnUNetPlans_profile", "dataset"))
    return plans, "2d", dataset_json


def taken(file, trainer, folder):
    return pretrained.as_nnunets(file, trainer, *of(folder))


def checked(file, trainer, folder):
    pretrained.check(file, trainer, *of(folder))


def test_a_foreign_file_is_taken_for_as_long_as_the_training_lasts(preprocessed, tmp_path):
    file, network = tmp_path / "theirs.pt", Network()
    torch.save({"theirs": torch.full((2, 1, 1, 1), 7.0)}, file)
    checked(file, Reader, preprocessed)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with taken(str(file), Reader, preprocessed) as made:
        load_pretrained_weights(network, made)
    assert not Path(made).exists()
    assert torch.equal(network.first.weight, torch.full((2, 1, 1, 1), 7.0))
    kept = [name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])]
    assert {"decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias"} <= set(kept)
    assert "second.weight" not in kept  # that of the network that the file was filled up from


def test_nnunets_own_checkpoints_stay_what_they_are(preprocessed, tmp_path):
    file = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": Network().state_dict()}, file)
    for trainer in (Reader, Student, nn.Module):
        checked(file, trainer, preprocessed)
        with taken(str(file), trainer, preprocessed) as made:
            assert made == str(file)
    with taken(None, Reader, preprocessed) as made:
        assert made is None


def test_others_need_nnunets_checkpoints(preprocessed, tmp_path):
    torch.save({"theirs": torch.zeros(1)}, tmp_path / "theirs.pt")
    for trainer in (Student, nn.Module):
        with pytest.raises(WeightsError, match="no nnU-Net checkpoint"):
            checked(tmp_path / "theirs.pt", trainer, preprocessed)
    with pytest.raises(WeightsError, match=r"'theirs\.pt' was not written by nnU-Net"):
        Student.foreign_weights(tmp_path / "theirs.pt", {})


def test_foreign_weights_that_are_no_numbers_are_refused(preprocessed, tmp_path):
    torch.save({"theirs": torch.full((2, 1, 1, 1), float("nan"))}, tmp_path / "theirs.pt")
    with pytest.raises(WeightsError, match=r"'theirs\.pt' has 1 of 1 tensors with values that are no numbers"):
        checked(tmp_path / "theirs.pt", Reader, preprocessed)


def test_broken_and_other_files_get_one_sentence(preprocessed, tmp_path):
    file = tmp_path / "theirs.pt"
    file.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be loaded as weights"):
        checked(file, Reader, preprocessed)
    torch.save({"others": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="is of another network"):  # before a recipe is written
        checked(file, Reader, preprocessed)
