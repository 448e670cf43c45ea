"""Folders of DICOM through the conversion images_folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from pathlib import Path

import dicom_toys as toys
import made_up
import nibabel as nib
import numpy as np
import pydicom
import pytest
from nnkd_dataset_conversion.images_folder import convert, main
from scipy.ndimage import map_coordinates

from nnkd.data.dataset import RawDataset
from nnkd.data.reading.dicom import sources
from nnkd.errors import DatasetError, SettingError

LABELS = {"liver": 1}


def series(folder: Path, uid: int, array: np.ndarray | None = None, start=(1.0, 2.0, 3.0), **options) -> np.ndarray:
    array = toys.noise(seed=uid) if array is None else array
    tags = {key: options.pop(key) for key in list(options) if key[0].isupper()}
    positions = toys.line(len(array), step=options.pop("step", (0, 0, 2.5)), start=start)
    toys.slices(folder, array, positions, series_uid=f"{toys.ROOT}.{uid}", tags=tags, **options)
    return array


def table(folder: Path, name: str = "dicom.tsv") -> list[dict[str, str]]:
    text = (folder / "private" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def stored(file: Path) -> np.ndarray:
    """(Z, Y, X) by nibabel."""
    return np.asanyarray(nib.load(file).dataobj).T


def test_series_become_numbered_cases_and_a_private_table_knows_them(tmp_path, nnunet_folders):
    first = series(tmp_path / "d" / "Meier^Anna" / "CT", 21, SeriesNumber=3, SeriesDescription="Thorax")
    second = series(tmp_path / "d" / "Zorn^Otto", 22)
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    dataset = RawDataset.open(710)
    assert dataset.spec.channel_names == ("CT",)
    assert report.done == ["case_0001", "case_0002"]
    np.testing.assert_array_equal(stored(dataset.folder / "imagesTr" / "case_0001_0000.nii.gz"), first)
    np.testing.assert_array_equal(stored(dataset.folder / "imagesTr" / "case_0002_0000.nii.gz"), second)
    rows = table(dataset.folder)
    assert [(row["case"], row["folder"]) for row in rows] == [
        ("case_0001", "Meier^Anna/CT"), ("case_0002", "Zorn^Otto")]  # fmt: skip
    assert (rows[0]["number"], rows[0]["modality"], rows[0]["description"]) == ("3", "CT", "Thorax")
    (channel,) = sources.read(dataset.folder, "case_0001")
    assert (channel.study, channel.series) == (toys.STUDY, f"{toys.ROOT}.21")
    assert channel.frame_of_reference == toys.FRAME_OF_REFERENCE
    assert channel.folder == "Meier^Anna/CT"
    instances = {}  # by position along the axis, as pydicom reads it
    for file in (tmp_path / "d" / "Meier^Anna" / "CT").iterdir():
        ds = pydicom.dcmread(file)
        instances[float(ds.ImagePositionPatient[2])] = str(ds.SOPInstanceUID)
    assert list(channel.instances) == [instances[z] for z in sorted(instances)]
    assert channel.frames == (1,) * 6


def test_nothing_of_a_patient_leaves_the_private_folder(tmp_path, nnunet_folders, capsys):
    series(tmp_path / "Meier" / "Meier" / "Meier1", 21, PatientName="Meier", PatientID="Meier")
    series(tmp_path / "Meier" / "Meier" / "Meier2", 22, np.delete(toys.noise(), 2, 0), PatientID="Meier")
    gap = sorted((tmp_path / "Meier" / "Meier" / "Meier2").iterdir())[2]
    gap.unlink()
    broken = sorted((tmp_path / "Meier" / "Meier" / "Meier2").iterdir())[0]
    shutil.copytree(broken.parent, tmp_path / "Meier" / "Meier" / "Meier3")
    (tmp_path / "Meier" / "Meier" / "Meier3" / broken.name).write_bytes(b"")
    assert main([str(tmp_path / "Meier"), "-d", "710", "-n", "D", "--labels", "liver"]) == 3
    said = capsys.readouterr()
    folder = nnunet_folders / "nnUNet_raw" / "Dataset710_D"
    public = [file for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).parts[0] != "private"]
    assert {"conversion.json", "dataset.json", "case_0001_0000.nii.gz"} <= {file.name for file in public}
    texts = [file.read_bytes() for file in public if file.suffix == ".json"] + [said.out.encode(), said.err.encode()]
    texts += [str(file.relative_to(folder)).encode() for file in public]
    for text in texts:
        assert b"Meier" not in text
        assert toys.ROOT.encode() not in text


def test_more_series_do_not_rename_those_that_are_there(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "m", 21)
    convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    series(tmp_path / "d" / "a", 20)
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    assert (report.skipped, report.done) == (["case_0001"], ["case_0002"])
    folder = RawDataset.open(710).folder
    assert [(row["case"], row["folder"]) for row in table(folder)] == [("case_0001", "m"), ("case_0002", "a")]
    (folder / "private" / "dicom.tsv").unlink()
    with pytest.raises(DatasetError, match=r"private/dicom.tsv, which says who is who, is gone"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS)


def test_names_of_folders_are_kept_when_asked_for(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "anna" / "CT", 21)
    series(tmp_path / "d" / "two", 22)
    series(tmp_path / "d" / "two", 23)
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS, keep_names=True)
    assert report.done[0] == "anna_CT"
    assert [name[:4] for name in report.done[1:]] == ["two_", "two_"]
    with pytest.raises(DatasetError, match="made with other source"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS)


@pytest.mark.parametrize("name", ["anna_CT", "anna", f"{toys.ROOT}.21"])
def test_masks_find_their_case_by_the_folders_name(tmp_path, nnunet_folders, name):
    for patient, uid in (("anna", 21), ("berta", 22)):
        series(tmp_path / "d" / patient / "CT", uid)
    convert(tmp_path / "d", "Dataset711_Images", labels=LABELS)
    image = nib.load(RawDataset.open(711).folder / "imagesTr" / "case_0001_0000.nii.gz")
    mask = (np.asanyarray(image.dataobj) > 0).astype(np.uint8)
    (tmp_path / "m").mkdir()
    nib.save(nib.Nifti1Image(mask, image.affine), tmp_path / "m" / f"{name}.nii.gz")
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS, masks=tmp_path / "m")
    assert not report.failures
    folder = RawDataset.open(710).folder
    assert [file.name for file in (folder / "labelsTr").iterdir()] == ["case_0001.nii.gz"]
    np.testing.assert_array_equal(stored(folder / "labelsTr" / "case_0001.nii.gz"), mask.T)


def test_what_lies_beside_is_set_aside_and_costs_nothing(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "p" / "CT", 21)
    for k, (sop_class, modality) in enumerate(((toys.SECONDARY, "OT"), (toys.SEG, "SEG"), (toys.RTDOSE, "RTDOSE"))):
        ds = toys.base(sop_class, f"{toys.ROOT}.6{k}.1", modality, toys.noise()[0])
        ds.SeriesInstanceUID = f"{toys.ROOT}.6{k}"
        toys.save(ds, tmp_path / "d" / "p" / modality / "x.dcm")
    (tmp_path / "d" / "LICENSE.txt").write_text("free")
    made_up.picture(tmp_path / "d" / "overview.png")
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["CT"])
    assert (report.done, report.failures) == (["case_0001"], [])
    assert report.lines[:5] == [
        "Set aside, RT Dose: 1 file ('x.dcm').",
        "Set aside, Secondary Capture (screenshot, dose report): 1 file ('x.dcm').",
        "Set aside, Segmentation: 1 file ('x.dcm').",
        "Set aside, image that is no DICOM: 1 file ('overview.png').",
        "Set aside, no DICOM: 1 file ('LICENSE.txt').",
    ]
    rows = table(RawDataset.open(710).folder, "set_aside.tsv")
    assert {"file": "p/RTDOSE/x.dcm", "why": "RT Dose"} in rows
    pictures = convert(tmp_path / "d", "Dataset711_P", labels=LABELS, pattern="*.png")
    assert pictures.done == ["overview"]


def test_nothing_but_what_is_set_aside(tmp_path, nnunet_folders):
    ds = toys.base(toys.SEG, f"{toys.ROOT}.6.1", "SEG", toys.noise()[0])
    toys.save(ds, tmp_path / "d" / "s.dcm")
    with pytest.raises(DatasetError, match=r"no DICOM series to convert. Set aside, Segmentation: 1 file"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    (tmp_path / "d" / "s.dcm").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"1 files that were not understood; the first: 's.dcm' is empty"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    made_up.picture(tmp_path / "d" / "overview.png")  # hides nobody
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    assert [(one.case, one.reason) for one in report.failures] == [("s.dcm", "It is empty.")]


def test_a_slice_that_is_cut_short_or_garbage_fails_its_series(tmp_path, nnunet_folders):
    for k, content in enumerate((b"", None)):
        series(tmp_path / "d" / f"p{k}", 21 + k)
        last = sorted((tmp_path / "d" / f"p{k}").iterdir())[-1]
        last.write_bytes(content if content is not None else last.read_bytes()[:-40])
    series(tmp_path / "d" / "whole", 25)
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    assert report.done == ["case_0003"]
    reasons = {one.case: one.reason for one in report.failures}
    assert "5 files are read, but 1 of the series or beside it" in reasons["case_0001"]
    assert "22_0006.dcm" in reasons["case_0002"]
    assert reasons["21_0006.dcm"] == "It is empty; private/set_aside.tsv says where it lies."
    assert not (RawDataset.open(710).folder / "imagesTr" / "case_0001_0000.nii.gz").exists()


def test_a_slice_that_lacks_is_a_failure_without_the_folders_name(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "anna", 21)
    (tmp_path / "d" / "anna" / "21_0003.dcm").unlink()
    series(tmp_path / "d" / "berta", 22)
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS)
    ((case, reason),) = [(one.case, one.reason) for one in report.failures]
    assert case == "case_0001"
    assert "The DICOM series of case_0001 lacks slices, or its steps differ: 2.5 mm apart as a rule, but 5 mm" in reason
    assert "anna" not in reason


def test_series_and_modalities_are_chosen(tmp_path, nnunet_folders):
    thorax = series(tmp_path / "d" / "a", 21, SeriesNumber=1, SeriesDescription="Thorax soft")
    series(tmp_path / "d" / "b", 22, SeriesNumber=2, SeriesDescription="Thorax lung")
    series(tmp_path / "d" / "c", 23, SeriesNumber=3, modality="MR")
    with pytest.raises(DatasetError, match=r"several modalities \(2 CT, 1 MR\). Choose with --dicom_modality"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["CT"])
    assert len(convert(tmp_path / "d", "Dataset710_D", labels=LABELS, dicom_modality="CT").done) == 2
    report = convert(tmp_path / "d", "Dataset711_D", labels=LABELS, series=["*soft"])
    assert report.done == ["case_0001"]
    assert "Set aside, not chosen by --series: 12 files ('22_0001.dcm'" in report.lines[0]
    file = RawDataset.open(711).folder / "imagesTr" / "case_0001_0000.nii.gz"
    np.testing.assert_array_equal(stored(file), thorax)
    words = ["-d", "712", "-n", "D", "--labels", "liver", "--series", "3"]
    assert main([str(tmp_path / "d"), *words]) == 0
    assert RawDataset.open(712).spec.channel_names == ("MRI",)


def test_series_of_one_study_become_channels_on_the_first_ones_grid(tmp_path, nnunet_folders):
    grid = np.indices((6, 8, 9)).astype(float)
    smooth = (40 * grid[0] + 30 * grid[1] + 20 * grid[2]).astype(np.int16)  # linear: so must be what is resampled
    first = series(tmp_path / "d" / "p" / "1", 21, SeriesDescription="t1 mprage", modality="MR")
    series(tmp_path / "d" / "p" / "2", 22, smooth, (1.3, 2.2, 3.9), modality="MR", SeriesDescription="FLAIR",
           step=(0, 0, 2.2), spacing=(0.7, 0.75))  # fmt: skip
    series(tmp_path / "d" / "p" / "3", 23, SeriesDescription="DWI", modality="MR")
    patterns = ["T1=*mprage*", "FLAIR=flair"]
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=patterns)
    assert (report.done, report.failures) == (["case_0001"], [])
    folder = RawDataset.open(710).folder
    assert RawDataset.open(710).spec.channel_names == ("T1", "FLAIR")
    files = [folder / "imagesTr" / f"case_0001_{k:04d}.nii.gz" for k in (0, 1)]
    np.testing.assert_array_equal(stored(files[0]), first)
    np.testing.assert_array_equal(nib.load(files[0]).affine, nib.load(files[1]).affine)
    z, y, x = np.indices((6, 8, 9))
    where = np.stack([(3 + 2.5 * z - 3.9) / 2.2, (2 + 0.8 * y - 2.2) / 0.7, (1 + 0.7 * x - 1.3) / 0.75])
    inside = np.all([(w >= 0) & (w <= n - 1) for w, n in zip(where, (6, 8, 9), strict=True)], axis=0)
    expected = map_coordinates(smooth.astype(float), where, order=1)
    assert inside.mean() > 0.4
    np.testing.assert_allclose(stored(files[1])[inside], expected[inside], atol=1e-3)
    assert any("FLAIR was resampled to the grid of T1 (linear); it covers" in line for line in report.lines)
    assert any("Set aside, no pattern of --channels fits: 6 files" in line for line in report.lines)
    one, two = sources.read(folder, "case_0001")
    assert (one.series, two.series) == (f"{toys.ROOT}.21", f"{toys.ROOT}.22")
    assert json.loads((folder / "conversion.json").read_text())["options"]["patterns"] == {
        "T1": "*mprage*", "FLAIR": "flair"}  # fmt: skip
    convert(tmp_path / "d", "Dataset711_D", labels=LABELS, channels=[f"FLAIR={toys.ROOT}.22"])
    assert toys.ROOT not in (RawDataset.open(711).folder / "conversion.json").read_text()


def test_channels_that_do_not_belong_together(tmp_path, nnunet_folders):
    options = {"labels": LABELS, "channels": ["T1=t1", "T2=t2"]}
    for k, (more, start) in enumerate((({"frame_uid": "1.2.7"}, (1, 2, 3)), ({}, (500, 2, 3)), ({}, (1, 2, 3)))):
        study = {"study_uid": f"1.2.3.{k}", "modality": "MR"}
        series(tmp_path / "d" / f"p{k}", 20 + 10 * k, SeriesDescription="t1", **study)
        series(tmp_path / "d" / f"p{k}", 21 + 10 * k, None, start, SeriesDescription="T2", **study, **more)
    series(tmp_path / "d" / "p2", 49, SeriesDescription="t2", study_uid="1.2.3.2", modality="MR")
    report = convert(tmp_path / "d", "Dataset710_D", **options)
    reasons = {one.case: one.reason for one in report.failures}
    assert "T1, T2 do not share a frame of reference" in reasons["case_0001"]
    assert "T1 and T2 do not overlap in space" in reasons["case_0002"]
    assert "2 series of the study fit T2=t2 (1 MR 'T2', 1 MR 't2')" in reasons["case_0003"]
    assert not report.done
    assert convert(tmp_path / "d", "Dataset711_D", across_frames=True, **options).done == ["case_0001"]
    with pytest.raises(SettingError, match="Give each channel a name of its own and a pattern"):
        convert(tmp_path / "d", "Dataset712_D", labels=LABELS, channels=["T1=t1", "T2"])
    with pytest.raises(SettingError, match="One series is one channel"):
        convert(tmp_path / "d", "Dataset712_D", labels=LABELS, channels=["T1", "T2"])


def test_why_no_study_has_the_channels(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "p", 21, SeriesDescription="t1", modality="MR")
    series(tmp_path / "d" / "p", 22, SeriesDescription="t2", modality="MR")
    with pytest.raises(SettingError, match=r"No series fits FLAIR=fl\* .*There is 1 MR 't1', 1 MR 't2'"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["T1=t1", "FLAIR=fl*"])
    with pytest.raises(DatasetError, match=r"None of 1 case.*case_0001: 2 series of the study fit A=t\*"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["A=t*", "T2=t2"])


def test_channels_whose_studies_only_share_a_folder(tmp_path, nnunet_folders):
    for k, name in enumerate(("t1", "t2")):
        series(tmp_path / "d" / "p" / name, 21 + k, SeriesDescription=name, study_uid=f"1.2.3.{k}", modality="MR")
        series(tmp_path / "d" / "q" / name, 31 + k, SeriesDescription=name, study_uid="1.2.3.9", modality="MR")
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["T1=t1", "T2=t2"])
    assert len(report.done) == 2
    assert any("the channels are of different studies, which lie in one folder" in line for line in report.lines)


def test_a_zip_is_unpacked(tmp_path, nnunet_folders):
    array = series(tmp_path / "d" / "p", 21)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as packed:
        for file in (tmp_path / "d").rglob("*.dcm"):
            packed.write(file, file.relative_to(tmp_path / "d"))
    shutil.rmtree(tmp_path / "d")
    assert convert(tmp_path / "export.zip", "Dataset710_D", labels=LABELS).done == ["case_0001"]
    np.testing.assert_array_equal(stored(RawDataset.open(710).folder / "imagesTr" / "case_0001_0000.nii.gz"), array)


def test_suv_as_pydicoms_header_has_it(tmp_path, nnunet_folders):
    drug = pydicom.Dataset()
    drug.RadionuclideTotalDose, drug.RadionuclideHalfLife = "300000000", "6586.2"
    drug.RadiopharmaceuticalStartTime, drug.RadiopharmaceuticalStartDateTime = "100000", "20200101100000"
    array = np.abs(toys.noise())
    series(tmp_path / "d" / "p", 21, array, modality="PT", Units="BQML", PatientWeight="70", SeriesTime="110000",
           SeriesDate="20200101", AcquisitionTime="110000", AcquisitionDate="20200101", DecayCorrection="START",
           CorrectedImage=["ATTN", "DECY"], RadiopharmaceuticalInformationSequence=[drug])  # fmt: skip
    assert not convert(tmp_path / "d", "Dataset710_D", labels=LABELS, suv=True).failures
    found = stored(RawDataset.open(710).folder / "imagesTr" / "case_0001_0000.nii.gz")
    dose = 3e8 * 0.5 ** (3600 / 6586.2)
    np.testing.assert_allclose(found, array * (70000.0 / dose), rtol=1e-4)
    assert not convert(tmp_path / "d", "Dataset711_D", labels=LABELS).failures
    np.testing.assert_allclose(stored(RawDataset.open(711).folder / "imagesTr" / "case_0001_0000.nii.gz"), array)
    series(tmp_path / "e", 22)
    with pytest.raises(SettingError, match="--suv is for PET"):
        convert(tmp_path / "e", "Dataset712_D", labels=LABELS, suv=True)


def test_a_dicom_option_for_a_folder_of_files_is_refused(tmp_path, nnunet_folders):
    made_up.picture(tmp_path / "photos" / "a.png")
    for option in ({"series": ["1"]}, {"dicom_modality": "CT"}, {"suv": True}, {"channels": ["CT=*"]}):
        with pytest.raises(SettingError, match="is converted from its files, not from DICOM"):
            convert(tmp_path / "photos", "Dataset710_P", labels=LABELS, **option)


def test_names_that_are_no_text(tmp_path, nnunet_folders, capsys):
    series(tmp_path / "d" / os.fsdecode(b"M\xfcller"), 21)
    (tmp_path / "d" / os.fsdecode(b"\xfc.dcm")).write_bytes(b"")
    (tmp_path / "d" / os.fsdecode(b"\xfc.txt")).write_text("")
    assert main([str(tmp_path / "d"), "-d", "710", "-n", "D", "--labels", "liver"]) == 3
    assert "\ufffd.dcm: It is empty" in capsys.readouterr().err
    folder = RawDataset.open(710).folder
    assert table(folder)[0]["folder"] == sources.read(folder, "case_0001")[0].folder == "M\ufffdller"


def test_a_multi_frame_series_and_the_frames_of_its_slices(tmp_path, nnunet_folders):
    array, order = toys.noise(), [3, 0, 5, 1, 4, 2]  # the file's frames are not in the order of their positions
    toys.enhanced(tmp_path / "d" / "IM0001", array[order], toys.line(6)[order])
    assert not convert(tmp_path / "d", "Dataset710_D", labels=LABELS).failures
    folder = RawDataset.open(710).folder
    np.testing.assert_array_equal(stored(folder / "imagesTr" / "case_0001_0000.nii.gz"), array)
    (channel,) = sources.read(folder, "case_0001")
    assert channel.frames == tuple(order.index(z) + 1 for z in range(6))
    assert set(channel.instances) == {f"{toys.SERIES}.1"}


def test_a_channel_that_the_series_contradict(tmp_path, nnunet_folders):
    series(tmp_path / "d", 21, modality="MR")
    with pytest.raises(SettingError, match="--channels says CT, but the series in 'd' are MR"):
        convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["CT"])
    assert convert(tmp_path / "d", "Dataset710_D", labels=LABELS, channels=["MRI"]).done == ["case_0001"]


def test_a_second_folder_of_one_name_gets_a_name_of_its_own(tmp_path, nnunet_folders):
    for k in (1, 2):
        series(tmp_path / str(k) / "d" / "CT", 20 + k)
        convert(tmp_path / str(k) / "d", "Dataset710_D", labels=LABELS, keep_names=True)
    cases = [row["case"] for row in table(RawDataset.open(710).folder)]
    assert cases[0] == "CT"
    assert cases[1].startswith("CT_")
    assert len(list((RawDataset.open(710).folder / "imagesTr").iterdir())) == 2


def test_masks_among_the_patients_folders(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "anna", 21)
    convert(tmp_path / "d", "Dataset711_Images", labels=LABELS)
    image = nib.load(RawDataset.open(711).folder / "imagesTr" / "case_0001_0000.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), tmp_path / "d" / "anna.nii.gz")
    (tmp_path / "d" / "LICENSE").write_text("free")
    report = convert(tmp_path / "d", "Dataset710_D", labels=LABELS, masks=tmp_path / "d")
    assert (RawDataset.open(710).folder / "labelsTr" / "case_0001.nii.gz").is_file()
    assert report.lines[0] == "Set aside, no DICOM: 1 file ('LICENSE')."
    assert "image that is no DICOM" not in "".join(report.lines)


def test_test_cases_are_numbered_on(tmp_path, nnunet_folders):
    series(tmp_path / "d" / "a", 21)
    series(tmp_path / "t" / "b", 22)
    convert(tmp_path / "d", "Dataset710_D", labels=LABELS, test=tmp_path / "t")
    folder = RawDataset.open(710).folder
    assert (folder / "imagesTs" / "case_0002_0000.nii.gz").is_file()
    assert [row["folder"] for row in table(folder)] == ["a", "b"]
