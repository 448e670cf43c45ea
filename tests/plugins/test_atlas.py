"""nnkd_basic.atlas and nnkd_basic.registration."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from nnkd_basic import registration as reg
from nnkd_basic.atlas import NO_VOTE, AtlasTeacher, fuse, local_similarity
from toy import LABELS, REAL_DATA, needs_real_data, toy_dataset

from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.errors import NnkdError
from nnkd.files import sha256
from nnkd.types import TeacherContext


@pytest.fixture
def labelled(tmp_path):
    return toy_dataset(tmp_path / "Dataset701_Toy", training=5, labelled=4, shape=(16, 28, 24))


def teacher_of(dataset, workers=1, **options):
    return AtlasTeacher(TeacherContext(tuple(dataset.spec.labels), dataset=dataset, workers=workers), **options)


def dsc(dataset, case, answer, label):
    truth, _, _ = dataset.spec.read_label_map(dataset.folder / "truth" / f"{case}{dataset.spec.file_ending}")
    _, orientation, _ = dataset.images().volume(case)
    reference = dataset.spec.mask(orientation.to_lps(truth), label)
    return 2 * (reference & answer[label]).sum() / (reference.sum() + answer[label].sum())


@pytest.mark.heavy
@pytest.mark.parametrize(
    "options",
    [
        {"registration": "affine", "fusion": "majority"},
        {"method": "demons"},
        {"method": "bspline", "number": 1, "choice": "first"},
        {"spacing": 2.0, "choice": "random"},
    ],
)
def test_labels_arrive(labelled, options):
    volume, _, _ = labelled.images().volume("toy_004")
    teacher = teacher_of(labelled, **options)
    answer = teacher.predict(volume, {})
    assert min(dsc(labelled, "toy_004", answer, label) for label in ("liver", "spleen")) > 0.8
    assert len(teacher.notes()["atlases"]) == options.get("number", 3)


@pytest.mark.heavy
def test_the_result_does_not_depend_on_threads_or_repetition(labelled):
    volume, _, _ = labelled.images().volume("toy_004")
    answers = [teacher_of(labelled, workers).predict(volume, {}) for workers in (1, 2)]
    assert all(np.array_equal(answers[0][label], answers[1][label]) for label in answers[0])


def test_never_the_case_nor_its_person_nor_its_copy(labelled):
    (labelled.folder / "cases.tsv").write_text("case\tparticipant_id\ntoy_000\tP1\ntoy_001\tP1\n")
    images = labelled.folder / "imagesTr"
    shutil.copy(images / "toy_000_0000.nii.gz", images / "toy_002_0000.nii.gz")
    volume, _, _ = labelled.images().volume("toy_000")
    teacher = teacher_of(labelled, number=9)
    teacher.predict(volume, {})
    assert teacher.notes()["atlases"] == ["toy_003"]
    alone = teacher_of(labelled, cases=("toy_000", "toy_001"))
    with pytest.raises(NnkdError, match="may serve as atlas"):
        alone.predict(volume, {})


def test_a_consensus_is_no_atlas_until_it_is_edited(labelled):
    file = labelled.label_file("toy_000")
    record = {"source": "consensus", "sha256": sha256(file), "inputs": {}, "teachers": ["a", "b"]}
    labelled.consensus_file().write_text(json.dumps({"cases": {"toy_000": record}}))
    assert "toy_000" not in teacher_of(labelled).candidates
    shutil.copy(labelled.label_file("toy_001"), file)  # somebody's edit
    assert "toy_000" in teacher_of(labelled).candidates


def test_labels_no_atlas_has_are_abstentions(labelled):
    write_dataset_json(labelled.folder, ["CT"], {**LABELS, "lung": 3}, ".nii.gz", 5)
    dataset = RawDataset(labelled.folder)
    volume, _, _ = dataset.images().volume("toy_004")
    assert set(teacher_of(dataset, number=1, registration="affine").predict(volume, {})) == {"liver", "spleen"}


def test_two_dimensions(tmp_path):
    dataset = toy_dataset(tmp_path / "Dataset702_Flat", labelled=3, shape=(1, 48, 40), ending=".png")
    volume, _, _ = dataset.images().volume("toy_003")
    answer = teacher_of(dataset).predict(volume, {})
    assert answer["liver"].shape == (1, 48, 40)
    assert min(dsc(dataset, "toy_003", answer, label) for label in answer) > 0.8


def test_what_cannot_work_is_said_at_once(labelled, tmp_path):
    with pytest.raises(NnkdError, match="no manual label map of toy_004"):
        teacher_of(labelled, cases=("toy_004",))
    with pytest.raises(NnkdError, match="must be positive"):
        teacher_of(labelled, number=0)
    with pytest.raises(NnkdError, match="has any of the labels"):
        AtlasTeacher(TeacherContext(("lung",), dataset=labelled))
    bare = toy_dataset(tmp_path / "Dataset703_Bare", labelled=0)
    with pytest.raises(NnkdError, match="no manually labelled case"):
        teacher_of(bare)


def image_of(seed, shape=(6, 24, 24)):
    array = np.random.default_rng(seed).normal(0, 10, shape)
    array[:, 4:12, 4:12] += 100
    return array.astype(np.float32)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (np.nan, "no finite"),
        (np.inf, "no finite"),
        (0, "one value 0"),
        (5, "one value 5"),
        ((1, 1, 1), "both 2D|fewer than 4"),
        ((2, 24, 24), "fewer than 4"),
    ],
)
@pytest.mark.parametrize("moving", [False, True])
def test_what_cannot_be_registered_is_said_and_does_not_hang(made, said, moving):
    """ITK looks for the axes of moments that are NaN for ever; of the rest it says several lines about its classes."""
    good = reg.to_image(image_of(0), (1, 1, 1))
    array = image_of(1)
    if isinstance(made, tuple):
        array = np.broadcast_to(np.arange(24, dtype=np.float32), (*made[:2], 24))[..., : made[2]].copy()
    elif np.isfinite(made):
        array[:] = made
    else:
        array[0, 0, 0] = made
    bad = reg.to_image(array, (1, 1, 1))
    with pytest.raises(NnkdError, match=said):
        reg.affine(*((good, bad) if moving else (bad, good)), seed=0)


def test_images_far_apart_and_thin_ones_are_registered():
    far = reg.to_image(image_of(0), (1, 1, 1), (5000.0, 0.0, 0.0))
    transform, _ = reg.affine(far, reg.to_image(image_of(1), (1, 1, 1)), seed=0)
    assert np.allclose(transform.TransformPoint((5012.0, 12.0, 3.0)), (12, 12, 3), atol=3)
    thin = reg.coarsened(reg.to_image(np.tile(image_of(0), (1, 5, 5)), (1, 1, 1)), 500)
    assert thin.GetSize()[2] == 4  # and not 1, of which ITK smooths nothing
    reg.affine(thin, thin, seed=0, iterations=1)


@pytest.mark.parametrize("choice", ["similar", "first"])
def test_an_atlas_that_cannot_be_registered_is_passed_over(labelled, choice, caplog):
    image = labelled.folder / "imagesTr" / "toy_000_0000.nii.gz"
    blank = sitk.ReadImage(str(image)) * 0
    sitk.WriteImage(blank, str(image))
    teacher = teacher_of(labelled, registration="affine", number=1, choice=choice, cases=("toy_000", "toy_001"))
    volume, _, _ = labelled.images().volume("toy_004")
    teacher.predict(volume, {})
    assert teacher.notes()["atlases"] == ["toy_001"]
    assert "'toy_000' does not serve as atlas: its image has the one value 0 everywhere" in caplog.text
    with pytest.raises(NnkdError, match="cannot register to 'toy_000': its image has the one value 0 everywhere"):
        teacher.predict(labelled.images().volume("toy_000")[0], {})


def test_fusion():
    labels = [np.array([1, 1, 2, NO_VOTE]), np.array([0, 2, 2, NO_VOTE])]
    assert fuse(labels, [None, None]).tolist() == [1, 1, 2, 0]  # ties go to the first
    assert fuse(labels, [np.full(4, 0.2), np.full(4, 0.3)]).tolist() == [0, 2, 2, 0]


def test_local_similarity_is_high_where_images_agree():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(12, 12, 24))
    other = image * 3 + 100
    other[..., 12:] = rng.normal(size=(12, 12, 12))
    found = local_similarity(image, other)
    assert found[..., :8].min() > 0.9
    assert found[..., 16:].mean() < 0.1


def test_coarsening_keeps_the_place():
    array = np.zeros((20, 40, 40), np.float32)
    array[5:15, 10:30, 10:30] = 1
    image = reg.to_image(array, (3.0, 1.0, 1.0), (5.0, 6.0, 7.0))
    small = reg.coarsened(image, 4000)
    assert np.prod(small.GetSize()) <= 4000
    back = sitk.GetArrayFromImage(sitk.Resample(small, image))
    assert ((back > 0.5) == (array > 0.5)).mean() > 0.95


@pytest.mark.heavy
@needs_real_data("hippocampus")
def test_hippocampus_reaches_what_one_registration_should(tmp_path):
    names = sorted(p.name for p in (REAL_DATA / "hippocampus" / "labelsTr").glob("*.nii.gz"))
    folder = tmp_path / "Dataset704_Hippocampus"
    for room in ("imagesTr", "labelsTr", "truth"):
        (folder / room).mkdir(parents=True)
    for name in [*names[:4], names[60]]:
        case = name[: -len(".nii.gz")]
        shutil.copy(REAL_DATA / "hippocampus" / "imagesTr" / name, folder / "imagesTr" / f"{case}_0000.nii.gz")
        room = "truth" if name == names[60] else "labelsTr"
        shutil.copy(REAL_DATA / "hippocampus" / "labelsTr" / name, folder / room / name)
    write_dataset_json(folder, ["MRI"], {"background": 0, "anterior": 1, "posterior": 2}, ".nii.gz", 5)
    dataset = RawDataset(folder)
    case = names[60][: -len(".nii.gz")]
    volume, _, _ = dataset.images().volume(case)
    answer = teacher_of(dataset).predict(volume, {})
    assert min(dsc(dataset, case, answer, label) for label in ("anterior", "posterior")) > 0.68
