"""Swin UNETR with random weights and twelve features, and weight files made by the tests."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from extras import needs

from nnkd.data.plans import read_plans
from nnkd.data.recipes import Recipe, write_recipe
from nnkd.errors import BrokenPluginError, SettingError, WeightsError
from nnkd.networks.students import build_network
from nnkd.plugin.options import parse_options
from nnkd.training.losses import DistillationLoss
from nnkd.weights import pretrained

pytestmark = needs("networks")

from nnkd_networks import swin_weights  # noqa: E402
from nnkd_networks.swin_trainer import SwinUNETROptions, nnUNetTrainerSwinUNETR  # noqa: E402
from nnkd_networks.swin_unetr import SwinUNETR, missing_voxels  # noqa: E402

NAME = "nnUNetTrainerSwinUNETR"
PARAMETERS = {(2, 24): 6_302_203, (3, 24): 15_702_979, (3, 48): 62_186_659}


@pytest.fixture(scope="module")
def slices() -> SwinUNETR:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return SwinUNETR(1, 3, dim=2, feature_size=12)


@pytest.fixture(scope="module")
def volumes() -> SwinUNETR:
    torch.manual_seed(0)
    return SwinUNETR(1, 2, dim=3, feature_size=12, one_logit=True)


# --- the network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "features"), PARAMETERS)
def test_its_size_is_the_published_ones(dim, features):
    with torch.device("meta"):
        network = SwinUNETR(1, 2, dim=dim, feature_size=features, one_logit=True)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[dim, features]


@pytest.mark.parametrize("size", [(32, 32), (1, 3), (33, 40)])
def test_any_size_of_slices(slices, size):
    assert slices.train()(torch.rand(1, 1, *size)).shape == (1, 3, *size)


@pytest.mark.heavy
def test_any_size_of_volumes_and_one_logit(volumes):
    with torch.no_grad():
        logits = volumes.eval()(torch.rand(1, 1, 5, 17, 32))
    assert logits.shape == (1, 2, 5, 17, 32)
    assert volumes.decoder.seg_layers[0].out_channels == 1
    torch.testing.assert_close(logits.softmax(1)[:, 1], torch.sigmoid(logits[:, 1]))


@pytest.mark.parametrize(
    ("size", "missing"),
    [((32, 32), [0, 32]), ((64, 32), [0, 0]), ((1, 1, 1), [31, 31, 63]), ((33, 64, 20), [31, 0, 12])],
)
def test_images_are_padded_to_multiples_with_two_voxels_at_the_coarsest_scale(size, missing):
    assert missing_voxels(size) == missing


def test_it_is_monais_network(slices):
    from monai.networks.nets import SwinUNETR as Theirs

    theirs = Theirs(1, 3, feature_size=12, spatial_dims=2).eval()
    theirs.load_state_dict({**as_monai(slices), **{f"out.conv.conv.{k}": v for k, v in head_of(slices).items()}})
    image = torch.rand(1, 1, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(slices.eval()(image), theirs(image))
        window = torch.nn.functional.pad(image[..., 2:-1], (1, 2))  # what is padded, and where it is cropped
        torch.testing.assert_close(slices(image[..., 2:-1]), theirs(window)[..., 1:-2])


def test_the_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    network = SwinUNETR(2, 3, dim=2, feature_size=12, checkpointing=True).train()
    target = (torch.rand(2, 2, 64, 32) > 0.5).float() * torch.tensor([1.0, 0.0])[:, None, None]
    DistillationLoss(regions=False)(network(torch.randn(2, 2, 64, 32)), target).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_it_computes_in_bfloat16_and_loses_in_float32(slices):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = slices.train()(torch.randn(1, 1, 32, 32))
        loss = DistillationLoss(regions=False)(output, torch.rand(1, 2, 32, 32) / 2)
    assert (output.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert loss.isfinite()


def test_without_monai_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(BrokenPluginError, match=re.escape('pip install "nnkd[networks]"')):
        SwinUNETR(1, 2)


def test_the_trainer_builds_it_with_the_recipes_options():
    with torch.device("meta"):
        network = build_network(nnUNetTrainerSwinUNETR, (64, 64), 3, 2, {"feature_size": 36})
    assert network.decoder.seg_layers[0].weight.shape == (3, 36, 1, 1)
    assert network.body.swinViT.patch_embed.proj.weight.shape == (36, 3, 2, 2)
    assert network.decoder.deep_supervision is False
    assert [key for key in network.state_dict() if ".seg_layers." in key] == [
        "decoder.seg_layers.0.weight", "decoder.seg_layers.0.bias",
    ]  # fmt: skip
    with pytest.raises(SettingError, match="feature_size"):
        parse_options(SwinUNETROptions, {"feature_size": "20"}, NAME)


# --- weights of others ------------------------------------------------------------------------------------------


def as_monai(network) -> dict[str, torch.Tensor]:
    """The network's tensors as MONAI calls them, without the last layer."""
    return {n.removeprefix("body."): t for n, t in network.state_dict().items() if n.startswith("body.")}


def head_of(network) -> dict[str, torch.Tensor]:
    return network.decoder.seg_layers[0].state_dict()


def transformer_of(network) -> dict[str, torch.Tensor]:
    return {n.removeprefix("swinViT."): t for n, t in as_monai(network).items() if n.startswith("swinViT.")}


def published(name: str) -> str:
    return name.replace("mlp.linear", "mlp.fc")


def nested(name: str) -> str:
    return re.sub(r"^(layers[1-4]\.0\.)", r"\g<1>0.", name)


FILES = {
    "a whole network": lambda n: {"state_dict": {**as_monai(n), "out.conv.conv.weight": torch.zeros(9)}},
    "of several GPUs": lambda n: {f"module.{k}": t for k, t in as_monai(n).items()},
    "model_swinvit.pt": lambda n: {
        "epoch": 1,
        "state_dict": {
            **{f"module.{published(k)}": t for k, t in transformer_of(n).items()},
            "module.rotation_head.weight": torch.zeros(4, 4),
        },
    },
    "swin_vit": lambda n: {"state_dict": {f"swin_vit.{published(k)}": t for k, t in transformer_of(n).items()}},
    "ssl_pretrained_weights.pth": lambda n: {
        "model": {
            "encoder.mask_token": torch.zeros(1),
            **{f"encoder.{nested(k)}": t for k, t in transformer_of(n).items()},
            "decoder1.weight": torch.zeros(2),
        }
    },
}


@pytest.mark.parametrize("kind", FILES)
def test_files_in_all_their_names_are_read(slices, tmp_path, kind):
    torch.manual_seed(1)
    source = SwinUNETR(1, 4, dim=2, feature_size=12)
    torch.save(FILES[kind](source), tmp_path / "weights.pt")
    found = swin_weights.read(tmp_path / "weights.pt", slices.state_dict())
    expected = {n: t for n, t in source.state_dict().items() if n.startswith("body.") and "position_index" not in n}
    if kind not in ("a whole network", "of several GPUs"):
        expected = {n: t for n, t in expected.items() if "swinViT" in n}
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def test_monais_own_filter_renames_the_same(slices):
    from monai.networks.nets.swin_unetr import filter_swinunetr

    content = FILES["ssl_pretrained_weights.pth"](slices)["model"]
    theirs = [filter_swinunetr(name, 0) for name in content]
    assert {pair[0] for pair in theirs if pair} == {swin_weights._renamed(n) for n in content if "swin" in
                                                    swin_weights._renamed(n)}  # fmt: skip


def test_equal_channels_give_what_one_gave(slices, tmp_path):
    torch.save({"state_dict": as_monai(slices)}, tmp_path / "weights.pt")
    torch.manual_seed(2)
    colour = SwinUNETR(3, 3, dim=2, feature_size=12)
    found = swin_weights.read(tmp_path / "weights.pt", colour.state_dict())
    assert colour.load_state_dict(found, strict=False).unexpected_keys == []
    colour.decoder.load_state_dict(slices.decoder.state_dict())
    image = torch.rand(1, 1, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(colour.eval()(image.expand(-1, 3, -1, -1)), slices.eval()(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: {"a": torch.zeros(2)}, "no checkpoint of Swin UNETR: 118 of its transformer's 118 tensors"),
        (lambda: as_monai(SwinUNETR(1, 2, dim=2, feature_size=24)), "set feature_size=24"),
        (lambda: as_monai(SwinUNETR(1, 2, dim=3, feature_size=12)), "it was trained on volumes"),
        (lambda: {"state_dict": [1, 2]}, "holds no tensors by name"),
    ],
)
def test_files_that_do_not_fit_are_refused(slices, tmp_path, make, said):
    torch.save(make(), tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=re.escape(said)):
        swin_weights.read(tmp_path / "weights.pt", slices.state_dict())


class Evil:
    """What a pickle may do."""

    def __reduce__(self):
        return print, ("run",)


def test_nothing_that_a_pickle_holds_is_run(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds more than weights"):
        pretrained.check(tmp_path / "weights.pt", nnUNetTrainerSwinUNETR, {}, "2d", {})
    assert capsys.readouterr().out == ""


# --- the trainer ------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_its_trainer_trains_and_validates_and_starts_from_a_file(nnunet_folders, monkeypatch, slices, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from planned import configuration, make_plans, preprocess
    from toy import toy_dataset, toy_teacher

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", labelled=4)
    toy_teacher(dataset, "t0")
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    folder = nnunet_folders / "nnUNet_preprocessed" / dataset.name
    short = {"epochs": 1, "iterations": 1, "val_iterations": 1, "feature_size": 12}
    name = write_recipe(folder, Recipe("nnUNetPlans", ("t0",), options=short, has_regions=False))
    plans = {**read_plans(folder, name), "continue_training": False}
    trainer = nnUNetTrainerSwinUNETR(plans, "2d", "all", dict(dataset.spec.json), torch.device("cpu"))
    trainer.on_train_start()
    torch.save(FILES["model_swinvit.pt"](slices), tmp_path / "model_swinvit.pt")
    file = str(tmp_path / "model_swinvit.pt")
    with pretrained.as_nnunets(file, type(trainer), plans, "2d", dataset.spec.json) as made:
        load_pretrained_weights(trainer.network, made)
    weight = "body.swinViT.layers1.0.blocks.0.mlp.linear1.weight"
    assert torch.equal(trainer.network.state_dict()[weight], slices.state_dict()[weight])
    batch = next(trainer.dataloader_train)
    trainer.network.train()
    assert trainer.train_step(batch)["loss"].ndim == 0
    assert not torch.equal(trainer.network.state_dict()[weight], slices.state_dict()[weight])
    trainer.network.eval()
    assert trainer.validation_step(batch)["tp_hard"].shape == (2,)
    group = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert (trainer.initial_lr, group["weight_decay"]) == (3e-4, 1e-7)
