"""nnKD_predict beyond nnU-Net: samples, uncertainty, and what a killed run leaves."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from processes import python
from torch import nn
from toy import toy_dataset, write_image
from trained import trained

from nnkd.cli.predict import main
from nnkd.data.predictions import PredictionFolder
from nnkd.files import sha256
from nnkd.inference.probabilistic import ProbabilisticNetwork
from nnkd.inference.uncertainty import MAPS, UncertaintyFolder
from nnkd.weights import checkpoints

pytestmark = pytest.mark.heavy

CASES = ["toy_000", "toy_001"]


class Toy(ProbabilisticNetwork):
    """Three samples: a convolution with three offsets."""

    number, regions = 3, False

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def samples(self, x):
        for n in range(self.number):
            yield torch.softmax(3 * self.layer(x) + torch.tensor([0.0, 0.5, -0.5]).view(1, 3, 1, 1) * n, 1)

    def forward(self, x):
        return self.answer(x)


@pytest.fixture
def images(nnunet_folders) -> Path:
    return toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", training=2).folder / "imagesTr"


@pytest.fixture
def model(tmp_path) -> Path:
    return trained(tmp_path / "model", spacing=(1.3, 0.9), folds=("0", "1"))


@pytest.fixture
def sampler(tmp_path, monkeypatch) -> Path:
    """A model whose network answers with samples."""
    folder = trained(tmp_path / "sampler")
    file = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    torch.save({**content, "network_weights": Toy().state_dict()}, file)
    monkeypatch.setattr(checkpoints, "new_network", lambda *_: Toy())
    return folder


def predict(images: Path, target: Path, model: Path, *more, folds=(0,)) -> int:
    words = ["-i", images, "-o", target, "-m", model, "-f", *folds, "-device", "cpu", "-npp", 0, "-nps", 0, *more]
    return main([str(w) for w in words])


def error(capsys) -> str:
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    return said[0]


def volumes(target: Path) -> list[dict]:
    with open(target / "uncertainty" / "volumes.csv") as file:
        return list(csv.DictReader(file))


def test_folds_are_members(images, model, tmp_path):
    assert predict(images, tmp_path / "plain", model, folds=(0, 1)) == 0
    assert predict(images, tmp_path / "out", model, "--uncertainty", folds=(0, 1)) == 0
    found = PredictionFolder(tmp_path / "out")
    for case in CASES:
        image = sitk.ReadImage(str(images / f"{case}_0000.nii.gz"))
        mine, plain = (sitk.ReadImage(str(tmp_path / n / f"{case}.nii.gz")) for n in ("out", "plain"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mine), sitk.GetArrayFromImage(plain))
        for name in MAPS:
            written = sitk.ReadImage(str(tmp_path / "out" / "uncertainty" / name / f"{case}.nii.gz"))
            assert written.GetPixelID() == sitk.sitkFloat32
            for what in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
                np.testing.assert_allclose(getattr(written, what)(), getattr(image, what)(), atol=1e-5)
            assert sitk.GetArrayFromImage(written).max() > 0
    rows = volumes(tmp_path / "out")
    assert [(r["case"], r["label"], r["members"], r["unit"]) for r in rows] == [
        (case, label, "2", "ml") for case in CASES for label in ("liver", "spleen")
    ]
    for row in rows:
        ml = 8 * 24 * 20 * 2 / 1000
        assert 0 <= float(row["low"]) <= float(row["median"]) <= float(row["high"]) <= ml
    assert found.manifest().options["uncertainty"] is True
    assert "samples" not in found.manifest().options


def test_samples_are_members(images, sampler, tmp_path):
    assert predict(images, tmp_path / "out", sampler, "--uncertainty", "--samples", 7) == 0
    assert {row["members"] for row in volumes(tmp_path / "out")} == {"7"}
    assert PredictionFolder(tmp_path / "out").manifest().options["samples"] == 7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--samples", 0], "--samples got 0, but a number of 1 or more is expected."),
        (["--samples", 4], "nnUNetTrainer trains one that gives a single answer"),
        (["--uncertainty"], "one fold with a single answer was chosen, so that nothing spreads"),
    ],
)
def test_what_cannot_be_is_one_sentence(images, model, tmp_path, capsys, arguments, sentence):
    assert predict(images, tmp_path / "out", model, *arguments) == 1
    assert sentence in error(capsys)
    assert not (tmp_path / "out").exists()


def test_one_sample_does_not_spread(images, sampler, tmp_path, capsys):
    assert predict(images, tmp_path / "out", sampler, "--uncertainty", "--samples", 1) == 1
    assert "nothing spreads" in error(capsys)


def test_continuing_makes_maps_that_are_missing(images, model, tmp_path):
    out = tmp_path / "out"
    assert predict(images, out, model, folds=(0, 1)) == 0
    assert PredictionFolder(out).manifest().options["uncertainty"] is False
    assert not (out / "uncertainty").exists()
    assert predict(images, out, model, "--uncertainty", "--continue_prediction", folds=(0, 1)) == 0
    assert PredictionFolder(out).manifest().options["uncertainty"] is True
    lost, kept = UncertaintyFolder(out).file("entropy", "toy_000"), UncertaintyFolder(out).file("entropy", "toy_001")
    lost.unlink()
    before = kept.stat().st_mtime_ns
    assert predict(images, out, model, "--uncertainty", "--continue_prediction", folds=(0, 1)) == 0
    assert lost.is_file()
    assert kept.stat().st_mtime_ns == before
    assert len(volumes(out)) == 4


def test_label_maps_made_anew_lose_the_old_ones_maps(images, model, tmp_path):
    out = tmp_path / "out"
    assert predict(images, out, model, "--uncertainty", folds=(0, 1)) == 0
    assert predict(images, out, model) == 0
    assert not list((out / "uncertainty").rglob("*.nii.gz"))
    assert volumes(out) == []


def test_parts_share_one_table(images, model, tmp_path):
    for part in (1, 0):
        parts = ["--uncertainty", "-num_parts", 2, "-part_id", part]
        assert predict(images, tmp_path / "out", model, *parts, folds=(0, 1)) == 0
    assert [row["case"] for row in volumes(tmp_path / "out")] == ["toy_000"] * 2 + ["toy_001"] * 2


def test_pictures(nnunet_folders, tmp_path):
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset702_P", training=1, shape=(1, 24, 20), ending=".png")
    model = trained(tmp_path, folds=("0", "1"), reader="NaturalImage2DIO", ending=".png")
    assert predict(dataset.folder / "imagesTr", tmp_path / "out", model, "--uncertainty", folds=(0, 1)) == 0
    written = sitk.ReadImage(str(tmp_path / "out" / "uncertainty" / "entropy" / "toy_000.nii.gz"))
    assert written.GetSize() == (20, 24, 1)
    assert {row["unit"] for row in volumes(tmp_path / "out")} == {"pixels"}
    assert all(float(row["high"]) <= 480 for row in volumes(tmp_path / "out"))


def test_stock_evaluation_overlooks_the_maps(images, model, tmp_path):
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple

    assert predict(images, tmp_path / "out", model, "--uncertainty", folds=(0, 1)) == 0
    truth = tmp_path / "truth"
    for case in CASES:
        write_image(
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{case}.nii.gz"))), truth / f"{case}.nii.gz"
        )
    compute_metrics_on_folder_simple(str(truth), str(tmp_path / "out"), [1, 2], num_processes=1)
    assert len(json.loads((tmp_path / "out" / "summary.json").read_text())["metric_per_case"]) == 2


KILLED = """
import os, signal, sys
really = os.replace
def replace(source, target):
    really(source, target)
    if str(target).endswith(os.path.join("standard_deviation", "toy_001.nii.gz")):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from nnkd.cli.predict import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""


def test_a_killed_run_continues(images, model, tmp_path):
    out = tmp_path / "out"
    words = ["-i", images, "-o", out, "-m", model, "-f", 0, 1, "-device", "cpu", "-npp", 0, "-nps", 0, "--uncertainty"]
    done = python(KILLED, *words)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert {row["case"] for row in volumes(out)} == {"toy_000"}
    assert not (out / "toy_001.nii.gz").exists()
    assert predict(images, out, model, "--uncertainty", "--continue_prediction", folds=(0, 1)) == 0
    assert PredictionFolder(out).cases() == CASES
    assert all(UncertaintyFolder(out).is_complete(case) for case in CASES)
    assert not list(out.rglob(".writing-*"))


def test_files_are_counted_by_the_part_that_takes_them(images, model, tmp_path, capsys):
    for name in ("._toy_000_0000.nii.gz", "toy_000.nii.gz", "notes.txt"):
        (images / name).write_bytes(b"x")
    said = []
    for part in ("0", "1"):
        said.append(
            (predict(images, images / "out", model, "-num_parts", 2, "-part_id", part), capsys.readouterr().out)
        )
    assert said[0][0] == 3
    assert said[0][1].splitlines()[-1] == (
        "imagesTr: 5 files came in: 1 used, 2 set aside (folder of nnkd or nnU-Net: out; shadow file of macOS: "
        "._toy_000_0000.nii.gz), 2 not understood (notes.txt, toy_000.nii.gz)"
    )
    assert said[1][0] == 0
    assert said[1][1].splitlines()[-1] == "imagesTr: 1 file came in: 1 used"


def hashes(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): sha256(f) for f in folder.rglob("[!.]*") if f.is_file()}


def test_what_somebody_made_is_not_replaced(images, model, tmp_path, capsys):
    labels, out = images.parent / "labelsTr", tmp_path / "out"
    (tmp_path / "link").symlink_to(labels)
    before = hashes(labels)
    for target in (labels, tmp_path / "link"):
        for more in ([], ["--replace"], ["--c"]):
            assert predict(images, target, model, *more) == 1
            assert "manual label maps" in error(capsys)
    assert predict(images, images, model) == 1
    assert "-o is the folder of the images" in error(capsys)
    assert hashes(labels) == before
    # nnU-Net's own predictions, or anybody's: no record of nnkd's
    shutil.copytree(labels, out)
    assert predict(images, out, model) == 1
    assert "'toy_000.nii.gz' and 1 more file(s) in 'out' would be replaced, but nnkd did not" in error(capsys)
    assert hashes(out) == before
    assert predict(images, out, model, "--replace", "--save_probabilities") == 0
    # its own are replaced, with all that belongs to them
    assert predict(images, out, model, "--save_probabilities") == 0
    (out / "toy_001.pkl").write_bytes(b"mine")
    assert predict(images, out, model, "--save_probabilities") == 1
    assert "'toy_001.pkl' in 'out'" in error(capsys)
    assert predict(images, out, model) == 0
    shutil.copy(labels / "toy_000.nii.gz", out)  # corrected by hand
    assert predict(images, out, model) == 1
    assert "'toy_000.nii.gz' in 'out'" in error(capsys)
    assert predict(images, out, model, "--c") == 0
    assert sha256(out / "toy_000.nii.gz") == before["toy_000.nii.gz"]
