"""Tests of nnUNetTrainerLiteMedSAM and nnUNetTrainerRepViTDistill: shrunk networks, toy scans, nnKD_train itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from extras import needs
from toy import toy_dataset

from nnkd import paths
from nnkd.cli import export, predict, train
from nnkd.data.recipes import Recipe
from nnkd.errors import RecipeError
from nnkd.plugin import registry
from nnkd.plugin.teachers import BoxTeacher
from nnkd.types import Entry
from nnkd.weights.checkpoints import load_checkpoint

pytestmark = needs("litemedsam", "segment_anything")

torch = pytest.importorskip("torch")
from nnkd_litemedsam import weights  # noqa: E402
from nnkd_litemedsam.networks.model import LiteMedSAM  # noqa: E402
from nnkd_litemedsam.networks.repvit import Filter  # noqa: E402
from nnkd_litemedsam.slices.options import BoxOptions, DistillOptions  # noqa: E402
from nnkd_litemedsam.trainers import slices  # noqa: E402
from nnkd_litemedsam.trainers.distillation import nnUNetTrainerRepViTDistill  # noqa: E402
from nnkd_litemedsam.trainers.losses import (  # noqa: E402
    Answer,
    BoxLoss,
    EmbeddingLoss,
    decode,
    dice_loss,
    dice_of,
    iou_of,
    no_padding,
    relative_error,
)

BOX, DISTILL = "nnUNetTrainerLiteMedSAM", "nnUNetTrainerRepViTDistill"
SHORT = ["epochs=1", "iterations=1", "val_iterations=1", "batch_size=2", "final_slices=1", "save_every=1"]


class Patches(torch.nn.Module):
    """An image encoder that looks at 4 x 4 pixels at a time, under a name of the encoder that it stands for."""

    def __init__(self, name: str):
        super().__init__()
        look = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.GELU(), torch.nn.Conv2d(8, 256, 1))
        self.add_module({"tinyvit": "patch_embed", "repvit": "features", "swin": "absolute_pos_embed"}[name],
                        torch.nn.ModuleDict({"seq": look}))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (layers,) = self.children()
        return layers["seq"](x)


def small(name: str, **_: object) -> torch.nn.Module:
    """Stands for build_encoder."""
    return Patches(name)


@pytest.fixture
def shrunk(nnunet_folders, monkeypatch):
    """Small networks, and a file of one that passes for the published one."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    for module in (slices, weights):
        monkeypatch.setattr(module, "build_encoder", small)
    torch.manual_seed(0)
    file = nnunet_folders / "lite_medsam.pth"
    torch.save(LiteMedSAM(small("tinyvit")).state_dict(), file)
    monkeypatch.setattr(weights, "published", lambda: file)
    return nnunet_folders


def raw(folders: Path, number: int = 701, **keywords: object):
    options = {"training": 5, "labelled": 5, "shape": (3, 24, 20), **keywords}
    return toy_dataset(folders / "nnUNet_raw" / f"Dataset{number}_Toy", **options)


def call(*arguments: object) -> int:
    return train.main(["701", "2d", "all", "-device", "cpu", *map(str, arguments)])


def model_folder(folders: Path, trainer: str) -> Path:
    (folder,) = (folders / "nnUNet_results" / "Dataset701_Toy").glob(f"{trainer}__*__2d")
    return folder


# --- losses -------------------------------------------------------------------------------------------------------


def test_many_images_with_a_box_each_are_decoded_as_one_after_another():
    torch.manual_seed(0)
    model = LiteMedSAM(torch.nn.Identity()).eval()
    embeddings = torch.randn(2, 256, 64, 64)
    boxes = torch.tensor([[10.0, 20, 90, 80], [100, 100, 200, 250]])
    with torch.inference_mode():
        answer = decode(model, embeddings, boxes)
        alone = [model.decode(embeddings[i], boxes[i : i + 1])[0] for i in range(2)]
    assert answer.iou.shape == (2,)
    assert torch.allclose(answer.logits[:, 0], torch.stack(alone), atol=1e-4)


@needs("networks", "monai")
def test_the_dice_loss_is_monais():
    from monai.losses import DiceLoss

    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 16, 16), (torch.rand(3, 1, 16, 16) > 0.7).float()
    expected = DiceLoss(sigmoid=True, squared_pred=True, reduction="mean")(logits, target)
    assert dice_loss(logits, target) == pytest.approx(expected.item(), abs=1e-6)


def test_box_losses_by_hand():
    target = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    target[..., :2, :] = True
    logits = torch.where(target, 40.0, -40.0)
    logits[..., 1, :] = -40.0  # half of it is found
    assert iou_of(logits, target).item() == 0.5
    assert dice_of(logits, target).item() == pytest.approx(2 / 3)
    perfect = torch.where(target, 40.0, -40.0)
    assert BoxLoss()(Answer(perfect, torch.ones(1)), target).item() == pytest.approx(0, abs=1e-5)
    assert BoxLoss()(Answer(perfect, torch.zeros(1)), target).item() == pytest.approx(1, abs=1e-5)


def test_padding_is_no_error_unless_asked_for():
    shapes = torch.tensor([[256, 256], [101, 256]])
    inside = no_padding(shapes)
    assert inside[0].all()
    assert inside[1].sum() == 26 * 64  # a row that sees one pixel of the image counts
    teacher, student = torch.zeros(2, 256, 64, 64), torch.zeros(2, 256, 64, 64)
    student[1, :, 30:] = 5
    student[:, :, 0, 0] = 2
    assert EmbeddingLoss(masked=True)(student, (teacher, shapes)) == pytest.approx((4 / 4096 + 4 / 1664) / 2)
    everything = (2 * 4 + 25 * 34 * 64) / (2 * 4096)
    assert EmbeddingLoss(masked=False)(student, (teacher, shapes)) == pytest.approx(everything)
    ones = torch.ones(2, 256, 64, 64)
    assert relative_error(ones * 0, ones, shapes).tolist() == pytest.approx([1, 1])
    assert relative_error(ones, ones, shapes).tolist() == [0, 0]


def test_the_1_x_1_filter_is_a_factor_in_training():
    torch.manual_seed(0)
    layer = Filter(5).eval()
    x = torch.randn(2, 6, 7, 5)
    trained = layer(x)
    with torch.no_grad():
        assert torch.allclose(trained, layer(x), atol=1e-5)


# --- options ------------------------------------------------------------------------------------------------------


def test_presets():
    assert (BoxOptions().lr, BoxOptions().epochs) == (5e-3, 100)
    assert (DistillOptions().lr, DistillOptions().epochs) == (5e-3, 50)
    assert (DistillOptions(preset="script").lr, DistillOptions(preset="script").epochs) == (1e-4, 100)
    assert BoxOptions(preset="script", lr=1e-3, epochs=7).lr == 1e-3


# --- nnKD_train ---------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_distilling_from_several_datasets_without_planning(shrunk, capsys):
    raw(shrunk, 701, labelled=0)
    raw(shrunk, 702, training=2, labelled=1, seed=1)
    flags = ("-tr", DISTILL, "--datasets", 701, 702, "--set", *SHORT, "cache=1")
    assert call(*flags) == 0
    folder = model_folder(shrunk, DISTILL)
    recipe = Recipe.of_plans(json.loads((folder / "plans.json").read_text()))
    assert recipe.datasets == ("Dataset701_Toy", "Dataset702_Toy")
    assert [model["name"] for model in recipe.lineage] == ["litemedsam"]
    fold = folder / "fold_all"
    model, encoder, _ = weights.load_model(fold / "checkpoint_final.pth")
    assert encoder == "repvit"
    taught = torch.load(weights.published(), weights_only=True)
    for name, tensor in model.state_dict().items():
        if not name.startswith("image_encoder."):
            assert torch.equal(tensor, taught[name]), name
    assert (fold / "checkpoint_best.pth").is_file()
    assert (fold / "progress.png").is_file()
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert summary["mean"]["relative error of embeddings"] > 0
    assert set(summary["by_label"]) == {"Dataset702_Toy"}
    assert set(summary["mean"]) > {"Dice of student", "Dice of teacher"}
    kept = list((shrunk / "nnUNet_preprocessed").glob("*/litemedsam_256/embeddings_*/*/*.npy"))
    assert 0 < len(kept) <= 4
    text = "".join(file.read_text() for file in fold.glob("*.txt")) + (fold / "debug.json").read_text()
    assert str(shrunk) not in text
    # predicting with it names the right command
    images = shrunk / "nnUNet_raw" / "Dataset701_Toy" / "imagesTr"
    arguments = [
        "-i",
        images,
        "-o",
        shrunk / "out",
        "-d",
        701,
        "-tr",
        DISTILL,
        "-c",
        "2d",
        "-f",
        "all",
        "-device",
        "cpu",
    ]
    capsys.readouterr()
    assert predict.main([*map(str, arguments), "-p", folder.name.split("__")[1]]) == 1
    error = capsys.readouterr().err
    assert "nnKD_segment_boxes" in error
    assert error.count("\n") == 1


@pytest.mark.heavy
def test_stage_1_trains_goes_on_and_teaches_stage_2(shrunk, monkeypatch):
    raw(shrunk)
    short = [*SHORT, "encoder=repvit", "flips=false"]
    assert call("-tr", BOX, "-n", "one", "--set", *short) == 0
    fold = model_folder(shrunk, BOX) / "fold_all"
    first = load_checkpoint(fold / "checkpoint_final.pth")
    assert first["logging"]["plateau"][-1]["last_epoch"] == 1
    assert len(first["logging"]["val_losses"]) == len(first["logging"]["val_dice"]) == 1
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    assert set(summary["by_label"]["Dataset701_Toy"]) <= {"liver", "spleen"}
    # the teacher's decoder, alone, on top of a trained encoder
    name = (fold / "checkpoint_final.pth").relative_to(shrunk / "nnUNet_results").as_posix()
    decoder = [*SHORT, "encoder=repvit", "trained=decoder", f"weights={name}"]
    assert call("-tr", BOX, "-n", "two", "--set", *decoder) == 0
    second = load_checkpoint(fold.parents[1] / f"{BOX}__LiteMedSAMPlans_two__2d" / "fold_all" / "checkpoint_final.pth")
    changed = {
        key.split(".")[0]
        for key, tensor in second["network_weights"].items()
        if not torch.equal(tensor, first["network_weights"][key])
    }
    assert changed == {"mask_decoder", "prompt_encoder"}
    # a student of it
    assert call("-tr", DISTILL, "-n", "three", "--set", *SHORT, f"teacher={name}", "cache=0", "padding=all") == 0
    plans = json.loads((model_folder(shrunk, DISTILL) / "plans.json").read_text())
    assert plans["nnkd"]["options"]["teacher"] == name
    assert plans["nnkd"]["lineage"][0]["name"] == "checkpoint_final.pth"
    for folder in (fold.parent, model_folder(shrunk, DISTILL)):
        stock_nnunet_names_the_right_command(folder, monkeypatch)


def stock_nnunet_names_the_right_command(folder: Path, monkeypatch) -> None:
    """nnUNetv2_predict_from_modelfolder, which goes on as nnUNetv2_predict does, and nnKD_export."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder

    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    words = ["-i", folder, "-o", folder.parent / "masks", "-m", folder, "-f", "all", "-device", "cpu"]
    monkeypatch.setattr("sys.argv", ["nnUNetv2_predict_from_modelfolder", *map(str, words)])
    with pytest.raises(RecipeError, match=r"^[^.]+\. Use nnKD_segment_boxes --model and name its checkpoint[^.]+\.$"):
        predict_entry_point_modelfolder()
    source = export._trained(export._parser().parse_args(["-m", str(folder), "-o", "out"]))
    assert source().export_graphs().weights["name"] == "checkpoint_final.pth"


@pytest.mark.heavy
def test_continuing_keeps_optimiser_schedule_and_place(shrunk):
    raw(shrunk)
    trainer = trainer_of(shrunk, nnUNetTrainerRepViTDistill, epochs=3, iterations=2, val_iterations=1, cache=0)
    trainer.num_epochs = 2
    trainer.run_training()
    trainer.lr_scheduler.num_bad_epochs = 4
    trainer.optimizer.param_groups[0]["lr"] = 1e-3
    log = trainer.logger.local_logger.my_fantastic_logging
    log["plateau"] = [{**log["plateau"][0], "num_bad_epochs": 4}]
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.current_epoch -= 1
    trainer.save_checkpoint(str(file))
    again = trainer_of(shrunk, nnUNetTrainerRepViTDistill, epochs=3, iterations=2, val_iterations=1, cache=0)
    again.load_checkpoint(str(file))
    assert again.current_epoch == 2
    assert again.lr_scheduler.num_bad_epochs == 4
    assert again.lr_scheduler.best == trainer.lr_scheduler.best
    assert again.optimizer.param_groups[0]["lr"] == 1e-3
    again.run_training()
    assert again.draw.start == 4
    assert len(again.logger.local_logger.my_fantastic_logging["relative_error"]) == 3


def trainer_of(folders: Path, kind: type, batch_size: int = 2, fold: object = "all", **options: object):
    """A trainer of Dataset701_Toy as nnU-Net makes it."""
    names = ["Dataset701_Toy"]
    preprocessed = folders / "nnUNet_preprocessed" / names[0]
    base = kind.write_plans(names)
    plans = json.loads((preprocessed / f"{base}.json").read_text())
    plans["configurations"]["2d"]["batch_size"] = batch_size
    plans["nnkd"] = Recipe(base=base, options=options).content()
    plans["continue_training"] = False
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    return kind(plans, "2d", fold, dataset_json, torch.device("cpu"))


@pytest.mark.heavy
def test_the_embedding_error_falls(shrunk):
    raw(shrunk, training=1)
    torch.manual_seed(0)
    trainer = trainer_of(shrunk, nnUNetTrainerRepViTDistill, epochs=3, iterations=4, flips=False, lr=5e-3)
    trainer.run_training()
    errors = trainer.logger.get_value("relative_error", None)
    assert min(errors) < 0.8 * errors[0]  # the last of three short epochs may step too far: batches are not seeded
    assert trainer.kept.used == len(list(trainer.slices["Dataset701_Toy"].folder.rglob("*.npy"))) * (2**21 + 128)


def test_the_last_norm_starts_at_the_teachers_scale(shrunk, monkeypatch):
    raw(shrunk, training=1)

    def normed(name):
        encoder = Patches(name)
        encoder.norm = torch.nn.LayerNorm(256)
        return encoder

    monkeypatch.setattr(slices, "build_encoder", normed)
    trainer = trainer_of(shrunk, nnUNetTrainerRepViTDistill, cache=0, flips=False)
    norm = trainer.make_network().image_encoder.norm
    z = trainer.reader().choices("toy_000")
    taught = []
    for place in z:
        sample = trainer.reader().sample("toy_000", place, np.random.default_rng(0), False)
        inside = no_padding(torch.tensor([sample.shape]))[0] > 0
        taught.append(trainer.teacher.embed(torch.from_numpy(sample.image)[None])[0][:, inside])
    taught = torch.cat(taught, 1)
    assert torch.allclose(norm.weight, taught.std(1), atol=1e-5)
    assert torch.allclose(norm.bias, taught.mean(1), atol=1e-5)


def test_folds_are_by_participant(shrunk):
    dataset = raw(shrunk, training=6, labelled=6)
    rows = "".join(f"toy_{i:03d}\tp{max(i, 1)}\n" for i in range(6))
    (dataset.folder / "cases.tsv").write_text("case\tparticipant_id\n" + rows)
    trainer = trainer_of(shrunk, nnUNetTrainerRepViTDistill, fold=0)
    training, validation = trainer.do_split()
    assert ("toy_000" in training) == ("toy_001" in training)
    assert not set(training) & set(validation)


# --- bad input ----------------------------------------------------------------------------------------------------


class OtherShape(BoxTeacher):
    """Embeds in another shape."""

    def predict(self, volume, prompts):
        return {}

    def encode(self, image):
        return np.zeros((8, 4, 4), dtype=np.float32)

    def decode(self, embedding, boxes, shape):
        return np.zeros((len(boxes), *shape), dtype=np.float32)


class Constant(OtherShape):
    """Embeds everything alike."""

    def encode(self, image):
        return np.full((256, 64, 64), float(image.mean()), dtype=np.float32)


@pytest.fixture
def others(monkeypatch):
    """Two more installed teachers."""
    plugins = registry.installed()
    found = [
        registry.Registered(
            "teacher", Entry(name, f"test_box_trainers:{cls}", "x", licence="CC-BY-NC-4.0"), "t", "t", "1"
        )
        for name, cls in (("othershape", "OtherShape"), ("constant", "Constant"))
    ]
    monkeypatch.setattr(plugins, "entries", [*plugins.entries, *found])
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["-tr", BOX], "Dataset701_Toy has no label map in labelsTr"),
        (["-tr", DISTILL, "--set", "teacher=litemedsan"], "Did you mean 'litemedsam'?"),
        (["-tr", DISTILL, "--set", "teacher=atlas"], "'atlas' has no embeddings of slices"),
        (["-tr", DISTILL, "--set", "teacher=nowhere.pth"], "teacher names 'nowhere.pth'"),
        (["-tr", DISTILL, "--set", "teacher=othershape", *SHORT], "shape 8x4x4, but the student's have 256x64x64"),
        (["-tr", DISTILL, "--datasets", "701", "799"], "No dataset has the id 799"),
        (["-tr", DISTILL, "-t", "none"], "learns from slices of the images"),
        (["-tr", DISTILL, "--set", "channel=T2"], "channel got 'T2', but there are CT"),
        (["-tr", DISTILL, "--set", 'windows={"heart": "lung"}'], "windows names heart"),
        (["-tr", DISTILL, "--set", "teacher=/somewhere/x.pth"], "hold no absolute path"),
        (["-tr", "nnUNetTrainerUNet", "--datasets", "701", "702"], "trains on one"),
        (["-tr", DISTILL, "-num_gpus", "2", "-device", "cuda"], "trains on one GPU"),
    ],
)
def test_bad_input_gets_one_sentence(shrunk, others, capsys, flags, sentence):
    raw(shrunk, labelled=0)
    raw(shrunk, 702)
    assert call(*flags) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert sentence in error


def test_missing_raw_gets_one_sentence(shrunk, capsys):
    (shrunk / "nnUNet_results" / "Dataset701_Toy").mkdir()
    assert call("-tr", DISTILL) == 1
    assert "Dataset701_Toy is not in nnUNet_raw" in capsys.readouterr().err


def test_any_teacher_of_the_right_shape(shrunk, others):
    raw(shrunk, training=1)
    trainer = trainer_of(shrunk, nnUNetTrainerRepViTDistill, teacher="constant", cache=1)
    trainer.initialize()
    batch = {"data": torch.full((1, 3, 256, 256), 0.2), "shapes": torch.tensor([[256, 256]]), "keys": ["x"]}
    assert trainer.taught(batch, batch["data"]).mean().item() == pytest.approx(51)
    assert trainer.kept is None  # it does not say which weights it has
    (entry,) = nnUNetTrainerRepViTDistill.lineage({"teacher": "constant"}, ("Dataset701_Toy",))
    assert entry["licence"] == "CC-BY-NC-4.0"


def test_nnunets_plans_are_refused(shrunk):
    with pytest.raises(RecipeError, match="Start it with nnKD_train"):
        nnUNetTrainerRepViTDistill({"plans_name": "nnUNetPlans", "configurations": {"2d": {}}}, "2d", 0, {})
