"""Tests of nnkd_hsnet: the network with random weights, small slices, and weight files made by the tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from extras import needs
from torch.nn import functional

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Recipe, write_recipe
from nnkd.errors import BrokenPluginError, RecipeError, SettingError, WeightsError
from nnkd.files import sha256
from nnkd.plugin.options import parse_options
from nnkd.training.losses import DistillationLoss

pytestmark = [needs("hsnet"), pytest.mark.heavy]

from nnkd_hsnet import weights  # noqa: E402
from nnkd_hsnet.network import HSNet, pvt_v2_b2  # noqa: E402
from nnkd_hsnet.trainer import HSNetOptions, SumOverOutputs, nnUNetTrainerHSNet  # noqa: E402

NAME = "nnUNetTrainerHSNet"


def size_of(network) -> int:
    return sum(p.numel() for p in network.parameters())


def four(network, image) -> list[torch.Tensor]:
    """The four outputs in evaluation mode."""
    network.eval()
    network.training = True  # of the network alone, not of its layers
    return network(image)


@pytest.fixture(scope="module")
def network() -> HSNet:
    torch.manual_seed(0)
    return HSNet(1, 3)


def small() -> torch.nn.Module:
    """A transformer of the same family, whose tensors have the same names, with a seventh of the weights."""
    from timm.models.pvt_v2 import pvt_v2_b0

    return pvt_v2_b0(pretrained=False, num_classes=0)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(1)
    return small()


# --- the network ------------------------------------------------------------------------------------------------


def test_paper_1s_number_of_parameters():
    with torch.device("meta"):
        assert size_of(HSNet(3, 2, one_logit=True, paper_exact=True)) == 29_849_657
        assert size_of(HSNet(3, 2, one_logit=True)) == 29_257_010
        assert size_of(pvt_v2_b2()) == 24_849_856


@pytest.mark.parametrize("size", [(16, 16), (1, 3), (33, 70), (64, 64)])
def test_any_image_size(network, size):
    image = torch.rand(2, 1, *size)
    assert network.eval()(image).shape == (2, 3, *size)
    assert [y.shape for y in network.train()(image)] == [(2, 3, *size)] * 4


@pytest.mark.parametrize("enlarge", [2, 4])
def test_enlarged_inside_the_finest_output_gets_finer(network, enlarge):
    larger = HSNet(1, 3, enlarge=enlarge)
    larger.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 30, 45)
    assert larger.eval()(image).shape == (1, 3, 30, 45)
    made = functional.interpolate(torch.rand(1, 1, 64, 64), scale_factor=1 / enlarge, mode="area")
    inside = functional.interpolate(made, scale_factor=enlarge, mode="bilinear")
    outputs = larger.decoder(larger.encoder(inside))
    expected = [functional.interpolate(y, made.shape[2:], mode="bilinear") for y in outputs]
    torch.testing.assert_close(larger(made), torch.stack(expected).mean(0))


def test_a_grey_image_is_repeated(network):
    colour = HSNet(3, 3)
    colour.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(colour.eval()(image.expand(-1, 3, -1, -1)), network.eval()(image))


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_numbers_of_channels_are_dealt_to_the_colours(network, channels):
    mixed = HSNet(channels, 3)
    assert size_of(mixed) == size_of(network) + 3 * channels + 3
    colours = mixed.encoder.colours(torch.randn(2, channels, 100, 100))
    assert colours.shape == (2, 3, 100, 100)
    torch.testing.assert_close(colours.std((0, 2, 3)), torch.ones(3), atol=0.05, rtol=0)
    assert all(mixed.encoder.colours.weight.abs().sum((0, 2, 3)) > 0), "a channel is lost"


def test_the_mean_of_the_four_outputs_predicts(network):
    image = torch.rand(2, 1, 40, 50)
    outputs = four(network, image)
    assert not torch.allclose(outputs[0], outputs[3])
    torch.testing.assert_close(network.eval()(image), torch.stack(outputs).mean(0))


def test_one_logit_is_a_softmax_that_is_a_sigmoid():
    network = HSNet(1, 2, one_logit=True)
    assert network.decoder.seg_layers[0].out_channels == 1
    logits = network.eval()(torch.rand(1, 1, 20, 20))
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.sigmoid(logits[:, 1]))
    assert [y.shape[1] for y in network.train()(torch.rand(2, 1, 20, 20))] == [2] * 4


def test_the_product_in_the_gates_is_the_published_models(network):
    seen = {}
    semantic = network.eval().decoder.semantic[2]
    hooks = [
        semantic.block.query.register_forward_hook(lambda _, __, y: seen.update(query=y)),
        semantic.spatial_gate.register_forward_hook(lambda _, x, __: seen.update(squares=x[0])),
    ]
    network(torch.rand(1, 1, 64, 64))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen["squares"].flatten(2).transpose(1, 2), seen["query"] ** 2)


def test_coefficients_scale_the_four_outputs(network):
    scales = network.eval().encoder(torch.rand(2, 1, 64, 64))
    found = []
    hook = network.decoder.coefficients.register_forward_hook(lambda _, __, y: found.append(y))
    outputs = network.decoder(scales)
    hook.remove()
    assert found[0].shape == (2, 4)
    assert 0 < float(found[0].min()) < float(found[0].max()) < 1
    with torch.no_grad():
        last = network.decoder.seg_layers[3](network.decoder.transfer(scales[3]))
    torch.testing.assert_close(outputs[3], last * found[0][:, 3, None, None, None])


@pytest.mark.parametrize("paper_exact", [False, True])
def test_the_gradient_reaches_every_parameter_that_is_trained(paper_exact):
    torch.manual_seed(0)
    network = HSNet(2, 3, paper_exact=paper_exact).train()
    target = (torch.rand(2, 2, 64, 64) > 0.5).float() * torch.tensor([1.0, 0.0])[:, None, None]
    SumOverOutputs(DistillationLoss(regions=False))(network(torch.randn(2, 2, 64, 64)), target).backward()
    silent = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []
    frozen = {n.split(".")[1] for n, p in network.named_parameters() if not p.requires_grad}
    assert frozen == ({"never_called"} if paper_exact else set())


def test_no_rank_of_ddp_waits_for_a_block_that_is_never_called(tmp_path):
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        network = DistributedDataParallel(HSNet(1, 2, one_logit=True, paper_exact=True))
        for _ in range(2):  # a missing gradient shows in the second step
            sum(y.square().mean() for y in network(torch.rand(2, 1, 16, 16))).backward()
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
        assert all("never_called" in name for name, p in network.named_parameters() if not p.requires_grad)
    finally:
        distributed.destroy_process_group()


def test_it_starts_with_little_foreground_and_learns_from_there():
    torch.manual_seed(0)
    network = HSNet(1, 3)
    image = torch.zeros(2, 1, 64, 64)
    image[:, :, 16:48, 16:48] = 2
    target = torch.cat((image > 1, image < 0), 1).float()
    with torch.no_grad():
        assert float(network.eval()(image).softmax(1)[:, 1:].sum(1).mean()) < 0.3
    loss = SumOverOutputs(DistillationLoss(regions=False))
    optimizer = torch.optim.AdamW(network.train().parameters(), 5e-4)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(loss(network(image), target))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_names_that_nnunet_relies_on(network):
    assert network.decoder.deep_supervision is False
    skipped = [key for key in network.state_dict() if ".seg_layers." in key]
    assert len(skipped) == 8
    other = HSNet(1, 5)
    kept = {key: value for key, value in network.state_dict().items() if key not in skipped}
    assert set(other.load_state_dict(kept, strict=False).missing_keys) == set(skipped)


def test_an_exported_graph_equals_the_eager_one(network):
    image = torch.rand(1, 1, 40, 50)
    exported = torch.export.export(network.eval(), (image,))
    torch.testing.assert_close(exported.module()(image), network(image))


def test_it_computes_in_bfloat16_and_loses_in_float32(network):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network.train()(torch.randn(2, 1, 32, 32))
        loss = SumOverOutputs(DistillationLoss(regions=False))(outputs, torch.rand(2, 2, 32, 32) / 2)
    assert (outputs[0].dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert loss.isfinite()


def test_without_timm_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(BrokenPluginError, match=re.escape('pip install "nnkd[hsnet]"')):
        HSNet(1, 2)


# --- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [False, True])
def test_losses_are_summed_and_the_mean_counts_as_often(regions):
    torch.manual_seed(0)
    one = DistillationLoss(regions=regions)
    outputs, target = [torch.randn(2, 2 if regions else 3, 8, 8) for _ in range(4)], torch.rand(2, 2, 8, 8)
    torch.testing.assert_close(SumOverOutputs(one)(outputs, target), sum(one(y, target) for y in outputs))
    torch.testing.assert_close(SumOverOutputs(one)(outputs[0], target), SumOverOutputs(one)([outputs[0]] * 4, target))


# --- ImageNet weights -------------------------------------------------------------------------------------------


def official(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by the authors' names, with a classifier."""
    named = {"head.weight": torch.zeros(1000, 512), "head.bias": torch.zeros(1000)}
    for name, value in state.items():
        name = re.sub(r"^patch_embed\.", "patch_embed1.", name)
        name = re.sub(r"^stages\.(\d)\.downsample\.", lambda m: f"patch_embed{int(m[1]) + 1}.", name)
        name = re.sub(r"^stages\.(\d)\.blocks\.", lambda m: f"block{int(m[1]) + 1}.", name)
        name = re.sub(r"^stages\.(\d)\.norm\.", lambda m: f"norm{int(m[1]) + 1}.", name)
        named[name.replace("mlp.dwconv.", "mlp.dwconv.dwconv.")] = value
    return named


@pytest.fixture
def files(backbone, tmp_path):
    """The same weights as four kinds of files."""
    from safetensors.torch import save_file

    state = backbone.state_dict()
    authors = official(state)
    assert {"block3.1.mlp.dwconv.dwconv.weight", "patch_embed4.proj.weight", "norm1.bias"} <= set(authors)
    torch.save(authors, tmp_path / "pvt_v2_b2.pth")
    torch.save({"state_dict": authors}, tmp_path / "wrapped.pth")
    torch.save({**state, "head.bias": torch.zeros(1000)}, tmp_path / "timm.bin")
    save_file(state, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("name", ["pvt_v2_b2.pth", "wrapped.pth", "timm.bin", "model.safetensors"])
def test_the_authors_and_timms_files_give_the_same_features(backbone, files, name):
    other = small()
    weights.load(other, files / name)
    image = torch.rand(1, 3, 64, 64)
    ours, theirs = (b.eval().forward_intermediates(image, intermediates_only=True) for b in (backbone, other))
    for one, same in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, same)


def broken(kind: str, state: dict, folder):
    file = folder / ("broken.safetensors" if kind == "no safetensors" else "broken.pth")
    if kind == "truncated":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:100_000])
    elif kind == "no safetensors":
        file.write_bytes(b"{}")
    elif kind == "missing":
        torch.save({k: v for k, v in state.items() if k != "patch_embed.proj.bias"}, file)
    elif kind == "strange":
        torch.save({**state, "neck.weight": torch.zeros(1)}, file)
    elif kind == "shape":
        torch.save({**state, "patch_embed.proj.bias": torch.zeros(3)}, file)
    elif kind == "code":
        torch.save({**state, "patch_embed.proj.bias": HSNetOptions()}, file)
    else:
        torch.save([1, 2], file)
    return file


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("truncated", "'broken.pth' cannot be loaded"),
        ("no safetensors", "'broken.safetensors' cannot be loaded"),
        ("code", "holds more than weights"),
        ("list", "holds no tensors by name"),
        ("missing", "1 of its .* tensors are missing, such as patch_embed.proj.bias"),
        ("strange", "1 tensors are not PVTv2-b2's, such as neck.weight"),
        ("shape", r"patch_embed.proj.bias has the shape \(3,\), but \(32,\) is expected"),
    ],
)
def test_files_that_are_no_weights_get_one_sentence(backbone, tmp_path, kind, sentence):
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(WeightsError, match=sentence):
        weights.load(backbone, broken(kind, before, tmp_path))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_another_files_hash_is_refused(tmp_path):
    (tmp_path / "pvt.pth").write_bytes(b"weights")
    digest = sha256(tmp_path / "pvt.pth")
    assert {weights.checked(tmp_path / "pvt.pth", given) for given in (None, digest, digest.upper())} == {digest}
    with pytest.raises(WeightsError, match=f"'pvt.pth' has the sha256 {digest}, but pretrained_sha256 expects 00"):
        weights.checked(tmp_path / "pvt.pth", "0" * 64)


def test_recipes_hold_no_absolute_path(nnunet_folders, monkeypatch):
    inside = nnunet_folders / "nnUNet_preprocessed" / "weights" / "pvt.pth"
    given = {"pretrained": str(inside)}
    assert parse_options(HSNetOptions, given, NAME)["pretrained"] == "weights/pvt.pth"
    assert parse_options(HSNetOptions, {"pretrained": "../pvt.pth"}, NAME)["pretrained"] == "../pvt.pth"
    with pytest.raises(SettingError, match="no absolute path; copy or link the file into nnUNet_preprocessed"):
        parse_options(HSNetOptions, {"pretrained": str(nnunet_folders / "pvt.pth")}, NAME)
    with pytest.raises(SettingError, match="pretrained_sha256"):
        parse_options(HSNetOptions, {"pretrained_sha256": "abc"}, NAME)
    monkeypatch.chdir(nnunet_folders)
    with pytest.raises(WeightsError, match=r"neither the current folder nor nnUNet_preprocessed has such a file"):
        weights.find("pvt.pth")
    (nnunet_folders / "nnUNet_preprocessed" / "pvt.pth").touch()
    assert weights.find("pvt.pth").parent.name == "nnUNet_preprocessed"
    (nnunet_folders / "pvt.pth").touch()
    assert weights.find("pvt.pth").absolute() == nnunet_folders / "pvt.pth"


# --- the trainer ------------------------------------------------------------------------------------------------


@pytest.fixture
def trainer_of(nnunet_folders, monkeypatch):
    """Makes trainers on a preprocessed toy dataset with one teacher."""
    from planned import configuration, make_plans, preprocess
    from toy import toy_dataset, toy_teacher

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    torch.set_num_threads(1)

    def make(teachers=("t0",), labels=None, json_keys=None, **options):
        keys = json_keys or {}
        dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4, labels=labels, **keys)
        toy_teacher(dataset, "t0")
        preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
        folder = nnunet_folders / "nnUNet_preprocessed" / dataset.name
        short = {"epochs": 1, "iterations": 1, "val_iterations": 1}
        recipe = Recipe("nnUNetPlans", teachers, options={**short, **options}, has_regions=dataset.spec.has_regions)
        plans = {**read_plans(folder, write_recipe(folder, recipe)), "continue_training": False}
        return nnUNetTrainerHSNet(plans, "2d", "all", dict(dataset.spec.json), torch.device("cpu"))

    return make


def test_its_trainer_trains_and_validates(trainer_of):
    trainer = trainer_of()
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert batch["target"].shape == (2, 2, 16, 16)
    trainer.network.train()
    with torch.no_grad():
        separate = [trainer.loss.loss(y, batch["target"]) for y in four(trainer.network, batch["data"])]
    trainer.network.eval()
    with torch.no_grad():
        expected = 4 * trainer.loss.loss(torch.stack(four(trainer.network, batch["data"])).mean(0), batch["target"])
    trainer.network.eval()
    assert trainer.validation_step(batch)["loss"] == pytest.approx(float(expected), rel=1e-4)
    trainer.network.train()
    assert trainer.train_step(batch)["loss"] == pytest.approx(float(sum(separate)), rel=0.5)
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (trainer.initial_lr, group["weight_decay"]) == (5e-5, 1e-4)


def test_without_teachers_nnunets_loss_is_summed(trainer_of):
    trainer = trainer_of(teachers=())
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    trainer.network.train()
    assert trainer.train_step(batch)["loss"].ndim == 0
    trainer.network.eval()
    result = trainer.validation_step(batch)
    assert result["tp_hard"].shape == (2,)


def test_regions(trainer_of):
    labels = {"background": 0, "whole": [1, 2], "right": 2}
    trainer = trainer_of(labels=labels, json_keys={"regions_class_order": [1, 2]}, paper_exact=True)
    trainer.initialize()
    assert trainer.network.decoder.seg_layers[0].out_channels == 2
    batch = next(trainer.get_dataloaders()[0])
    assert trainer.train_step(batch)["loss"] > 0
    assert not any(p.requires_grad for p in trainer.network.decoder.never_called.parameters())


def test_a_training_starts_from_imagenet_and_predicts_without_the_file(trainer_of, nnunet_folders):
    file, backbone = nnunet_folders / "nnUNet_preprocessed" / "pvt_v2_b2.pth", pvt_v2_b2()
    torch.save(official(backbone.state_dict()), file)
    trainer = trainer_of(pretrained="pvt_v2_b2.pth", pretrained_sha256=sha256(file))
    trainer.initialize()
    loaded = trainer.network.encoder.backbone.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.state_dict().items())
    checkpoint = nnunet_folders / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(checkpoint))
    log = Path(trainer.log_file).read_text(encoding="utf-8")
    assert f"sha256 {sha256(file)} (not a file that nnkd knows)" in log
    assert str(nnunet_folders) not in log
    file.unlink()
    arguments = "2d", "all", trainer.dataset_json, torch.device("cpu")
    plans = trainer.plans_manager.plans
    again = nnUNetTrainerHSNet({**plans, "continue_training": True}, *arguments)
    again.load_checkpoint(str(checkpoint))  # --c, --val
    manager, configuration = trainer.plans_manager, trainer.configuration_manager
    predicting = nnUNetTrainerHSNet.build_network_architecture(manager, configuration, 1, 3, False)
    predicting.load_state_dict(again.network.state_dict())
    anew = nnUNetTrainerHSNet({**plans, "continue_training": False}, *arguments)
    with pytest.raises(WeightsError, match="neither the current folder nor nnUNet_preprocessed"):
        anew.initialize()


def test_3d_is_refused_before_anything_is_made(nnunet_folders):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from planned import configuration, make_plans
    from toy import toy_dataset

    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy")
    plans = make_plans(dataset, {"3d_fullres": configuration("3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0))})
    with pytest.raises(RecipeError, match="a network for slices, but this configuration has patches of three axes"):
        nnUNetTrainerHSNet(dict(plans), "3d_fullres", 0, dict(dataset.spec.json), torch.device("cpu"))
    assert not any((nnunet_folders / "nnUNet_results").iterdir())
    manager = PlansManager(plans)
    with pytest.raises(RecipeError, match="Train it with the configuration 2d"):
        nnUNetTrainerHSNet.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, False)


def test_nnkd_train_refuses_3d_with_one_sentence(nnunet_folders, capsys, monkeypatch):
    from planned import configuration, make_plans, preprocess
    from toy import toy_dataset, toy_teacher

    from nnkd.cli import train

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    toy_teacher(dataset, "t0")
    plans = make_plans(dataset, {"3d_fullres": configuration("3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0))})
    preprocess(dataset, plans, "3d_fullres")
    assert train.main(["701", "3d_fullres", "all", "-tr", NAME, "-device", "cpu", "-n", "volumes"]) == 1
    assert "is a network for slices" in capsys.readouterr().err
    assert not list((nnunet_folders / "nnUNet_preprocessed" / dataset.name).glob("*volumes*"))


def test_nnkd_train_misses_the_weights_before_it_writes_a_recipe(nnunet_folders, capsys, monkeypatch):
    from planned import configuration, make_plans, preprocess
    from toy import toy_dataset, toy_teacher

    from nnkd.cli import train

    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    toy_teacher(dataset, "t0")
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    flags = ["-tr", NAME, "-device", "cpu", "-n", "mine", "--set", "pretrained=nowhere.pth"]
    assert train.main(["701", "2d", "all", *flags]) == 1
    assert "pretrained names 'nowhere.pth'" in capsys.readouterr().err
    assert not list((nnunet_folders / "nnUNet_preprocessed" / dataset.name).glob("*mine*"))


def test_stock_nnunet_finds_it(monkeypatch):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnkd import paths

    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    assert recursive_find_trainer_class_by_name(NAME) is nnUNetTrainerHSNet
