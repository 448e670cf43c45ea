"""Tests of nnkd.networks.stock_models: what is exported runs in a Python without nnkd."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
import torch
from processes import python
from toy import toy_dataset
from trained import trained

from nnkd import paths
from nnkd.cli import predict
from nnkd.data.plans import KEY
from nnkd.data.recipes import Recipe
from nnkd.errors import WeightsError
from nnkd.networks import stock_models
from nnkd.networks.stock_models import check_stock, write_stock_model
from nnkd.weights.checkpoints import TrainedModel

WITHOUT_NNKD = "import sys\nassert 'nnkd' not in sys.modules\nsys.modules['nnkd'] = None\n"
STOCK = "from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder as main; main()"


@pytest.fixture
def model(tmp_path, monkeypatch) -> TrainedModel:
    """A student with the planned network, in 3D with a transpose."""
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    folder = trained(
        tmp_path,
        name="3d_fullres",
        patch=(8, 16, 16),
        spacing=(2, 1, 1),
        transpose=(1, 0, 2),
        trainer="nnUNetTrainerKD",
    )
    plans = json.loads((folder / "plans.json").read_text())
    recipe = Recipe(base="nnUNetPlans", teachers=("t",), has_regions=False).content()
    (folder / "plans.json").write_text(json.dumps({**plans, KEY: recipe}))
    return TrainedModel.open(folder, ["0"], "checkpoint_final.pth")


@pytest.mark.heavy
def test_it_predicts_the_same_masks_where_nnkd_is_not_installed(model, tmp_path):
    (line,) = write_stock_model(model, tmp_path / "out" / "nnunet")
    target = tmp_path / "out" / "nnunet" / "Dataset799_Trained" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert line.endswith("-m nnunet/Dataset799_Trained/nnUNetTrainer__nnUNetPlans__3d_fullres")
    images = toy_dataset(tmp_path / "Dataset701_Toy", labelled=0, test=1, shape=(8, 20, 18)).folder / "imagesTs"
    assert predict.main(["-i", str(images), "-o", str(tmp_path / "ours"), "-m", str(model.folder), "-f", "0",
                         "-device", "cpu", "-npp", "0", "-nps", "0"]) == 0  # fmt: skip
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(WITHOUT_NNKD)  # for the process that it starts
    kept = {k: v for k, v in os.environ.items() if k != "nnUNet_extTrainer"}
    environment = {**kept, "PYTHONPATH": str(tmp_path / "blocked"), "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"}
    words = ["-i", images, "-o", tmp_path / "theirs", "-m", target, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1]
    run = python(WITHOUT_NNKD + STOCK, *words, folder=tmp_path, environment=environment)
    assert run.returncode == 0, run.stderr
    for file in (tmp_path / "ours").glob("*.nii.gz"):
        ours, theirs = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(f)))
                        for f in (file, tmp_path / "theirs" / file.name))  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
        assert len(np.unique(ours)) > 1


@pytest.mark.heavy
def test_it_holds_weights_and_lineage_and_nothing_else(model, tmp_path):
    write_stock_model(model, tmp_path / "out")
    folder = next((tmp_path / "out").glob("*/*"))
    assert {path.name for path in folder.rglob("*")} == {"plans.json", "dataset.json", "fold_0", "checkpoint_final.pth"}
    content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["init_args"] == {"configuration": "3d_fullres"}
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert set(content) == {"network_weights", "trainer_name", "init_args", "inference_allowed_mirroring_axes"}
    assert json.loads((folder / "plans.json").read_text())[KEY]["teachers"] == ["t"]


@pytest.mark.heavy
def test_networks_and_readers_that_nnunet_lacks_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    own = SimpleNamespace(trainer_name="nnUNetTrainerUNet")
    with pytest.raises(WeightsError, match=r"has a network of nnUNetTrainerUNet's own.* take onnx or openvino here"):
        check_stock(own, model)
    monkeypatch.setattr(stock_models, "STOCK", ("nnunetv2", "torch"))
    with pytest.raises(WeightsError, match="name a network of dynamic_network_architectures"):
        write_stock_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
