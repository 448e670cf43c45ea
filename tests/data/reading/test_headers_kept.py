"""Whatever nnkd writes lies where its image lies, by nibabel and by ITK, 0 mm apart: through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from trained import trained

from nnkd.boxes.cases import BoxCase
from nnkd.boxes.images import read_image
from nnkd.cli.aggregate import main as aggregate
from nnkd.cli.convert_dataset import main as convert
from nnkd.cli.predict import main as predict
from nnkd.cli.predict_teachers import main as predict_teachers

SHAPE = (12, 16, 8)
STRAIGHT = np.array([[-0.9, 0, 0, 40], [0, 0.9, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
TURN = nibabel.eulerangles.euler2mat(0.2, -0.1, 0.15)
OBLIQUE = STRAIGHT.copy()
OBLIQUE[:3, :3] = TURN @ STRAIGHT[:3, :3]
FINE = OBLIQUE.copy()
FINE[:3] *= 1000
MOVED = STRAIGHT.copy()
MOVED[:3, 3] += 20
# affine of the qform, of the sform, their codes, unit
HEADERS = {
    "both": (STRAIGHT, STRAIGHT, (1, 1), "mm"),
    "oblique": (OBLIQUE, OBLIQUE, (1, 4), "mm"),
    "apart": (STRAIGHT, MOVED, (1, 2), "mm"),
    "qform": (OBLIQUE, None, (3, 0), "mm"),
    "sform": (None, OBLIQUE, (0, 2), "unknown"),
    "micron": (FINE, FINE, (1, 1), "micron"),
    "none": (None, None, (0, 0), "mm"),
}


def save(name: str, voxels: np.ndarray, file: Path) -> None:
    qform, sform, codes, unit = HEADERS[name]
    image = nibabel.Nifti1Image(voxels, None)
    image.header["pixdim"][1:4] = (0.9, 0.9, 2.5)
    image.set_qform(qform, codes[0])
    image.set_sform(sform, codes[1])
    image.header.set_xyzt_units(unit)
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, None, image.header), file)


def places(file: Path) -> list[np.ndarray]:
    """The first three axes' affine by nibabel and by ITK."""
    image = sitk.ReadImage(str(file))
    axes = image.GetDimension()
    origin = image.GetOrigin()[:3]
    direction = np.reshape(image.GetDirection(), (axes, axes))[:3, :3] * image.GetSpacing()[:3]
    return [nibabel.load(file).affine, np.asarray(origin), direction]


def check(written: Path, image: Path) -> None:
    for found, expected in zip(places(written), places(image), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6, err_msg=str(written))


@pytest.fixture
def raw(nnunet_folders) -> Path:
    """Dataset701: two channels in one file, which has four axes."""
    folder = nnunet_folders / "nnUNet_raw" / "Dataset701_Toy"
    rng = np.random.default_rng(0)
    for name in HEADERS:
        voxels = rng.normal(size=(*SHAPE, 2)).astype(np.float32)
        save(name, voxels, folder / "imagesTr" / f"{name}_0000.nii.gz")
        for masks in ("one", "two"):
            mask = (voxels[..., 0] > 1) + 2 * (voxels[..., 1] > 1.5).astype(np.uint8)
            save(name, np.minimum(mask, 2).astype(np.uint8), nnunet_folders / masks / f"{name}.nii.gz")
    labels = {"background": 0, "liver": 1, "spleen": 2}
    spec = {"channel_names": {"0": "CT", "1": "PET"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(spec))
    return folder


@pytest.mark.heavy
def test_label_maps_of_teachers_and_consensus(raw):
    home = raw.parents[1]
    given = [word for alias in ("one", "two") for word in (f"{alias}.folder={home / alias}",)]
    assert predict_teachers(["-d", "701", "-t", "one=imported", "two=imported", "-device", "cpu", "--set", *given]) == 0
    assert aggregate(["-d", "701", "-i", str(raw / "teachersTr"), "-o", str(home / "consensus"), "-a", "majority"]) == 0
    for name in HEADERS:
        for written in (raw / "teachersTr" / "one" / f"{name}.nii.gz", home / "consensus" / f"{name}.nii.gz"):
            check(written, raw / "imagesTr" / f"{name}_0000.nii.gz")
            truth = np.asanyarray(nibabel.load(home / "one" / f"{name}.nii.gz").dataobj)
            assert np.array_equal(np.asanyarray(nibabel.load(written).dataobj), truth)


@pytest.mark.heavy
def test_predictions_and_maps_of_uncertainty(raw, tmp_path):
    model = trained(tmp_path / "model", spacing=(0.9, 0.9), folds=("0", "1"), channels=("CT", "PET"))
    words = ["-i", raw / "imagesTr", "-m", model, "-f", 0, 1, "-device", "cpu", "-npp", 0, "-nps", 0, "--disable_tta"]
    for out, more in (("plain", ["--uncertainty"]), ("probabilities", ["--save_probabilities"])):
        assert predict([str(word) for word in [*words, "-o", tmp_path / out, *more]]) == 0
    for name in HEADERS:
        image = raw / "imagesTr" / f"{name}_0000.nii.gz"
        maps = sorted((tmp_path / "plain" / "uncertainty").glob(f"*/{name}.nii.gz"))
        assert maps
        for written in (tmp_path / "plain" / image.name.replace("_0000", ""), *maps):
            check(written, image)
        check(tmp_path / "probabilities" / f"{name}.nii.gz", image)


def test_label_maps_beside_images_prompted_by_boxes(tmp_path):
    for name in HEADERS:
        file = tmp_path / f"{name}.nii.gz"
        save(name, np.zeros(SHAPE, np.int16), file)
        image = read_image(BoxCase(name, file, ".nii.gz"))
        image.save(np.ones(image.stored_shape, np.uint8), tmp_path / "out.nii.gz")
        check(tmp_path / "out.nii.gz", file)


def test_what_is_converted_lies_at_one_place_for_all(nnunet_folders):
    """By the sform, in millimetres, whoever reads it; label maps lie where their images lie."""
    home = nnunet_folders
    for name in HEADERS:
        save(name, np.zeros(SHAPE, np.int16), home / "scans" / f"{name}.nii.gz")
        save(name, np.ones(SHAPE, np.uint8), home / "masks" / f"{name}.nii.gz")
    words = ["images_folder", home / "scans", "-d", "702", "-n", "Made", "--masks", home / "masks"]
    assert convert([str(word) for word in [*words, "--channels", "CT", "--labels", "liver"]]) == 0
    made = home / "nnUNet_raw" / "Dataset702_Made"
    for name, (qform, sform, _, unit) in HEADERS.items():
        image = made / "imagesTr" / f"{name}_0000.nii.gz"
        check(made / "labelsTr" / f"{name}.nii.gz", image)
        affine, origin, direction = places(image)
        if name != "none":
            scale = 1e-3 if unit == "micron" else 1.0
            np.testing.assert_allclose(affine[:3], scale * (qform if sform is None else sform)[:3], atol=1e-5)
            np.testing.assert_allclose(affine[:3, 3] * (-1, -1, 1), origin, atol=1e-5)
            np.testing.assert_allclose(affine[:3, :3] * [[-1], [-1], [1]], direction, atol=1e-5)
