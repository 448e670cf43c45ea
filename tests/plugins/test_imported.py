"""nnkd_basic.imported."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnkd_basic.imported import ImportedTeacher
from toy import REAL_DATA, needs_real_data, toy_dataset, write_image

from nnkd.errors import DatasetError, GeometryError, NnkdError, SettingError
from nnkd.plugin.options import parse_options
from nnkd.types import TeacherContext


def ask(dataset, case="toy_000", **options):
    teacher = ImportedTeacher(
        TeacherContext(tuple(dataset.spec.labels), dataset=dataset),
        **parse_options(ImportedTeacher, options, "imported"),
    )
    volume, orientation, _ = dataset.images().volume(case)
    answer = teacher.predict(volume, {})
    return {label: orientation.to_file(mask) for label, mask in answer.items()}, teacher


def truth(dataset, case="toy_000"):
    return sitk.ReadImage(str(dataset.folder / "truth" / f"{case}{dataset.spec.file_ending}"))


@pytest.fixture
def masks(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    return folder


def test_one_file_with_a_map_given_as_text(dataset, masks):
    image = truth(dataset)
    sitk.WriteImage(image * 5 + sitk.Cast(image == 2, sitk.sitkUInt8) * 10, str(masks / "toy_000.nrrd"))  # 5 and 20
    answer, teacher = ask(dataset, folder=str(masks), map='{"spleen": [20, 3]}')
    assert list(answer) == ["spleen"]  # liver is not in the map: an abstention
    assert np.array_equal(answer["spleen"], sitk.GetArrayFromImage(image) == 2)
    ignored = int((sitk.GetArrayFromImage(image) == 1).sum())
    assert teacher.notes() == {"ignored_voxels_by_value": {"5": ignored}}


@pytest.mark.parametrize("place", ["beside", "around labelsTr"])
def test_masks_with_a_dataset_json_of_their_own_are_matched_by_name(dataset, masks, place):
    """As nnU-Net leaves one beside its predictions, and as every dataset has one around labelsTr."""
    folder = masks if place == "beside" else masks / "labelsTr"
    folder.mkdir(exist_ok=True)
    image = truth(dataset)
    array = np.array([0, 7, 3], np.uint8)[sitk.GetArrayFromImage(image)]  # liver 7, spleen 3, and a kidney 1
    array[0, 0, 0] = 1
    mask = sitk.GetImageFromArray(array)
    mask.CopyInformation(image)
    sitk.WriteImage(mask, str(folder / "toy_000.nii.gz"))
    content = {"labels": {"background": 0, "kidney": 1, "spleen": 3, "liver": 7}, "channel_names": {"0": "CT"}}
    (masks / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    answer, teacher = ask(dataset, folder=str(folder))
    for label, integer in (("liver", 7), ("spleen", 3)):
        np.testing.assert_array_equal(answer[label], array == integer)
    assert teacher.inputs("toy_000")["dataset.json"] == masks / "dataset.json"
    content["labels"] = {"background": 0, "Leber": 7}
    (masks / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    with pytest.raises(DatasetError, match=r"are of Leber .* which has liver, spleen"):
        ask(dataset, folder=str(folder))


def test_one_file_per_label_with_joined_names(dataset, masks):
    array = sitk.GetArrayFromImage(truth(dataset)) == 1
    (masks / "toy_000").mkdir()
    for name, part in (("left", array & (np.arange(20) < 7)), ("right", array & (np.arange(20) >= 7))):
        part = sitk.GetImageFromArray(part.astype(np.uint8))
        part.CopyInformation(truth(dataset))
        sitk.WriteImage(part, str(masks / "toy_000" / f"liver_{name}.nii.gz"))
    file = masks / "map.json"
    file.write_text(json.dumps({"liver": ["liver_left", "liver_right"], "spleen": "spleen"}))
    answer, teacher = ask(dataset, folder=str(masks), map=str(file))
    assert np.array_equal(answer["liver"], array)
    assert "spleen" not in answer  # no file: an abstention
    assert set(teacher.inputs("toy_000")) == {
        "imported toy_000/liver_left.nii.gz", "imported toy_000/liver_right.nii.gz", "map",
    }  # fmt: skip


def test_the_file_of_one_label_that_holds_several_values_is_told(dataset, masks, caplog):
    sitk.WriteImage(truth(dataset), str(masks / "toy_000_liver.nii.gz"))  # all labels, under the name of one
    sitk.WriteImage(truth(dataset) == 2, str(masks / "toy_000_spleen.nii.gz"))
    answer, _ = ask(dataset, folder=str(masks))
    assert np.array_equal(answer["liver"], sitk.GetArrayFromImage(truth(dataset)) > 0)
    assert "'toy_000_liver.nii.gz'" in caplog.text
    assert "holds the values 1, 2: all of them were taken for it" in caplog.text
    assert "toy_000_spleen" not in caplog.text


def test_a_label_without_voxels_is_a_no(dataset, masks):
    sitk.WriteImage(sitk.Cast(truth(dataset) == 1, sitk.sitkUInt8), str(masks / "toy_000.nii.gz"))
    answer, _ = ask(dataset, folder=str(masks))
    assert answer["liver"].any()
    assert not answer["spleen"].any()


def test_own_file_names(dataset, masks):
    sitk.WriteImage(truth(dataset), str(masks / "seg-toy_000-final.mha"))
    with pytest.raises(DatasetError, match="looked for toy_000 or"):
        ask(dataset, folder=str(masks))
    answer, _ = ask(dataset, folder=str(masks), pattern="seg-{case}-final")
    assert answer["spleen"].any()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_another_orientation_of_the_same_grid_fits(dataset, masks, order):
    stored = sitk.Flip(sitk.PermuteAxes(truth(dataset), order), [True, False, True])
    sitk.WriteImage(stored, str(masks / "toy_000.nii.gz"))
    answer, _ = ask(dataset, folder=str(masks))
    assert np.array_equal(answer["liver"], sitk.GetArrayFromImage(truth(dataset)) == 1)


@pytest.mark.parametrize("what", ["size", "spacing", "origin", "direction"])
def test_another_grid_is_refused(dataset, masks, what):
    image = truth(dataset)
    if what == "size":
        image = image[2:]
    elif what == "spacing":
        image.SetSpacing((1.0, 1.0, 3.0))
    elif what == "origin":
        image.SetOrigin((0.0, 0.0, 0.0))
    else:
        image.SetDirection(sitk.VersorTransform((0, 0, 1), 0.1).GetMatrix())
    sitk.WriteImage(image, str(masks / "toy_000.nii.gz"))
    with pytest.raises(GeometryError, match=what) as caught:
        ask(dataset, folder=str(masks))
    assert "resample=true" in str(caught.value)


def test_resample_brings_another_grid_back(dataset, masks):
    image = truth(dataset)
    fine = sitk.Resample(
        image, [40, 48, 16], sitk.Transform(), sitk.sitkNearestNeighbor,
        image.TransformContinuousIndexToPhysicalPoint((-0.25, -0.25, -0.25)), [0.5, 0.5, 1.0],
    )  # fmt: skip
    sitk.WriteImage(fine, str(masks / "toy_000.nii.gz"))
    answer, teacher = ask(dataset, folder=str(masks), resample="true")
    assert (answer["liver"] == (sitk.GetArrayFromImage(image) == 1)).mean() > 0.99
    assert teacher.notes()["resampled"] == ["toy_000.nii.gz"]


@pytest.mark.parametrize("resample", ["true", "false"])
@pytest.mark.parametrize("lost", ["all", "place", "codes"])
def test_a_mask_that_lost_its_header_is_refused(dataset, masks, lost, resample):
    """A confident no would come of it."""
    image = truth(dataset)
    if lost != "codes":
        spacing = image.GetSpacing()
        image = sitk.GetImageFromArray(sitk.GetArrayFromImage(image))
        image.SetSpacing(spacing if lost == "place" else (1.0, 1.0, 1.0))
    sitk.WriteImage(image, str(masks / "toy_000.nii.gz"))
    if lost == "codes":
        found = nibabel.load(masks / "toy_000.nii.gz")
        found.header.set_qform(None, 0)
        found.header.set_sform(None, 0)
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(found.dataobj), None, found.header), masks / "toy_000.nii.gz")
    with pytest.raises(GeometryError, match="a header that says nothing of where it lies"):
        ask(dataset, folder=str(masks), resample=resample)


def test_a_mask_elsewhere_is_refused(dataset, masks):
    image = truth(dataset)
    image.SetOrigin((500.0, 0.0, 3.0))
    sitk.WriteImage(image, str(masks / "toy_000.nii.gz"))
    with pytest.raises(GeometryError, match="does not overlap its image 'toy_000'"):
        ask(dataset, folder=str(masks), resample="true")


def test_a_mask_of_255_is_no_silent_no(dataset, masks):
    sitk.WriteImage((truth(dataset) == 1) * 255, str(masks / "toy_000.nii.gz"))
    for more in ({}, {"map": '{"liver": 5}'}):
        with pytest.raises(DatasetError, match="holds the value 255, which no label"):
            ask(dataset, folder=str(masks), **more)
    answer, _ = ask(dataset, folder=str(masks), map='{"liver": 255}')
    assert np.array_equal(answer["liver"], sitk.GetArrayFromImage(truth(dataset)) == 1)
    answer, teacher = ask(dataset, folder=str(masks), others="background")
    assert not answer["liver"].any()
    assert list(teacher.notes()["ignored_voxels_by_value"]) == ["255"]


@pytest.mark.parametrize("ending", [".img", ".nhdr", ".mhd"])
def test_pairs_are_one_mask(dataset, masks, ending):
    sitk.WriteImage(truth(dataset), str(masks / f"toy_000{ending}"))
    assert len(list(masks.iterdir())) == 2
    answer, _ = ask(dataset, folder=str(masks))
    assert np.array_equal(answer["liver"], sitk.GetArrayFromImage(truth(dataset)) == 1)


def test_two_dimensional_pictures(tmp_path, masks):
    dataset = toy_dataset(tmp_path / "Dataset702_Flat", shape=(1, 24, 20), ending=".png")
    array = sitk.GetArrayFromImage(truth(dataset))
    from PIL import Image

    Image.fromarray((array * 100).reshape(24, 20).astype(np.uint8)).save(masks / "toy_000.gif")
    answer, _ = ask(dataset, folder=str(masks), map='{"liver": 100, "spleen": 200}')
    assert np.array_equal(answer["liver"][0], array.reshape(24, 20) == 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no folder"),
        ({"folder": "/nowhere"}, "does not exist"),
        ({"map": '{"lung": 3}'}, "lung"),
        ({"map": '{"liver": 3, "spleen": "s"}'}, "mixes"),
        ({"map": '{"liver": 0}'}, "background"),
        ({"map": "none.json"}, "cannot be read"),
        ({"pattern": "x"}, "lacks"),
    ],
)
def test_bad_options(dataset, masks, options, says):
    options = {"folder": str(masks), **options} if options else {}
    with pytest.raises(SettingError, match=says):
        ask(dataset, **options)


def test_bad_files(dataset, masks):
    file = masks / "toy_000.nii.gz"
    write_image(np.full((8, 24, 20), 0.5, np.float32), file)
    with pytest.raises(NnkdError, match="fractions"):
        ask(dataset, folder=str(masks))
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(NnkdError, match="truncated"):
        ask(dataset, folder=str(masks))
    file.write_bytes(b"")
    with pytest.raises(NnkdError, match="empty"):
        ask(dataset, folder=str(masks))


@needs_real_data("trunk_ct")
def test_two_versions_of_one_program_agree_through_their_maps(tmp_path):
    folder, found = REAL_DATA / "trunk_ct", {}
    maps = {"v1_full": {"liver": 5, "pancreas": 10, "ivc": 8}, "v2_fast": {"liver": 5, "pancreas": 7, "ivc": 63}}
    target = tmp_path / "Dataset710_Trunk" / "imagesTr" / "trunk_0000.nii.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes((folder / "ct.nii.gz").read_bytes())
    from nnkd.data.dataset import RawDataset, write_dataset_json

    labels = {"background": 0, "liver": 1, "pancreas": 2, "ivc": 3}
    write_dataset_json(tmp_path / "Dataset710_Trunk", ["CT"], labels, ".nii.gz", 1)
    dataset = RawDataset(tmp_path / "Dataset710_Trunk")
    for version, mapping in maps.items():
        pattern = f"totalsegmentator_{version}"
        copy = tmp_path / version
        copy.mkdir()
        (copy / "trunk.nii.gz").write_bytes((folder / f"{pattern}.nii.gz").read_bytes())
        found[version], _ = ask(dataset, "trunk", folder=str(copy), map=json.dumps(mapping))
    for label, least in (("liver", 0.97), ("pancreas", 0.75), ("ivc", 0.9)):
        a, b = found["v1_full"][label], found["v2_fast"][label]
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > least
