"""Tests of nnkd.networks.student_export."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from extras import needs
from torch import nn
from trained import trained

from nnkd.data.recipes import Recipe
from nnkd.errors import SettingError, WeightsError
from nnkd.files import sha256
from nnkd.inference.predictor import load_predictor
from nnkd.inference.probabilistic import ProbabilisticNetwork, logits
from nnkd.networks import runtimes, student_export
from nnkd.networks.student_export import write_student
from nnkd.weights.checkpoints import TrainedModel

pytestmark = [needs("export", "onnx", "onnxscript", "onnxruntime"), pytest.mark.heavy]
TEACHER = {"name": "t", "licence": "MIT", "weights_licence": "CC-BY-NC-4.0"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> TrainedModel:
    """A student of two folds that learned from a teacher that is not for commercial use."""
    folder = trained(tmp_path_factory.mktemp("trained"), folds=("0", "1"))
    plans = json.loads((folder / "plans.json").read_text())
    recipe = Recipe(base="nnUNetPlans", teachers=("t",), lineage=(TEACHER,), has_regions=False)
    (folder / "plans.json").write_text(json.dumps({**plans, "nnkd": recipe.content()}))
    return TrainedModel.open(folder, ["0", "1"], "checkpoint_final.pth")


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return folder, write_student(model, folder)


def test_the_description_says_what_lies_before_and_behind(written, model):
    folder, lines = written
    content = json.loads((folder / "student.json").read_text())
    assert [one["file"] for one in content["networks"]] == ["fold_0.onnx", "fold_1.onnx"]
    assert content["input"] == {"name": "image", "shape": ["batch", 1, 16, 16], "dtype": "float32"}
    assert content["output"]["shape"] == ["batch", 3, 16, 16]
    assert (content["output"]["kind"], content["output"]["probabilities"]) == ("logits", "softmax over the heads")
    before, after = content["preprocessing"], content["postprocessing"]
    assert (before["spacing"], before["transpose"]) == ([1.0, 1.0], [0, 1, 2])
    assert before["normalisation"][0]["scheme"] == "ZScoreNormalization"
    assert before["normalisation"][0]["channel"] == "CT"
    assert content["inference"]["mirroring_axes"] == [0, 1]
    assert after["labels"] == {"background": 0, "liver": 1, "spleen": 2}
    assert content["weights"] == model.weights()
    assert content["lineage"] == [TEACHER]
    assert content["recipe"]["teachers"] == ["t"]
    assert content["files"] == {f"fold_{i}.onnx": sha256(folder / f"fold_{i}.onnx") for i in (0, 1)}
    assert str(model.folder.parent) not in (folder / "student.json").read_text()
    assert len(lines) == 2 * len(runtimes.installed()) + 1
    assert lines[-1].startswith("NOT FOR COMMERCIAL USE: what was exported inherits the terms of t (CC-BY-NC-4.0)")


@pytest.mark.parametrize("fold", [0, 1])
def test_each_fold_answers_as_in_torch_for_any_batch(written, model, fold):
    predictor = load_predictor(model, "cpu")
    predictor.network.load_state_dict(predictor.list_of_parameters[fold])
    image = np.random.default_rng(fold).standard_normal((3, 1, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        expected = predictor.network.eval()(torch.from_numpy(image)).numpy()
    (found,) = runtimes.open_session(written[0] / f"fold_{fold}.onnx", runtimes.installed()[0], 1).run({"image": image})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_another_answer_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(student_export, "TOLERANCE", 0.0)
    with pytest.raises(WeightsError, match=r"The exported fold_0\.onnx is not the network: on"):
        write_student(model, tmp_path)
    assert not (tmp_path / "student.json").exists()
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match="Install one of them"):
        write_student(model, tmp_path)


class Coin(ProbabilisticNetwork):
    """Three samples of one head."""

    def __init__(self):
        super().__init__()
        self.number, self.regions = 3, True
        self.conv = nn.Conv2d(1, 1, 1)
        self.register_buffer("noise", torch.tensor([-1.0, 0.0, 2.0]))

    def samples(self, x):
        for one in self.noise:
            yield torch.sigmoid(self.conv(x) + one)

    def answer(self, x):
        raise AssertionError("the tiled answer is not exported")


def test_samples_are_averaged_as_probabilities(tmp_path):
    network, file = Coin().eval(), tmp_path / "coin.onnx"
    student_export.write_onnx(
        student_export._mean_of_samples(network), {"image": torch.zeros(2, 1, 4, 4)}, "logits", file, {"image": "batch"}
    )
    image = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = logits(torch.stack(list(network.samples(image))).mean(0), regions=True).numpy()
    (found,) = runtimes.open_session(file, runtimes.installed()[0], 1).run({"image": image.numpy()})
    np.testing.assert_allclose(found, expected, atol=1e-5)
