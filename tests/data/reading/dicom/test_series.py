from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import dicom_toys as toys
import numpy as np
import pydicom
import pytest

from nnkd.data.reading.dicom.series import Found, scan
from nnkd.errors import FolderError, SettingError

PIXELS = toys.noise()


def series(folder: Path, uid: str, **tags) -> list[Path]:
    options = {
        key: tags.pop(key) for key in ("study_uid", "modality", "frame_uid", "first", "sop_class") if key in tags
    }
    return toys.slices(folder, PIXELS, toys.line(6), series_uid=f"{toys.ROOT}.{uid}", tags=tags, **options)


def other(file: Path, sop_class: str, modality: str, uid: str, **tags) -> Path:
    ds = toys.base(sop_class, f"{toys.ROOT}.{uid}.1", modality, PIXELS[0])
    toys.set_all(ds, {"SeriesInstanceUID": f"{toys.ROOT}.{uid}", **tags})
    return toys.save(ds, file)


def rules(found: Found) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for aside in found.aside:
        counts[aside.rule] += len(aside.files)
    return dict(counts)


def test_what_series_say_of_themselves_and_nothing_of_the_patient(tmp_path):
    series(tmp_path / "a" / "b", "7", SeriesNumber=3, SeriesDescription="Thorax 1.5 mm", PatientID="secret")
    (one,) = scan(tmp_path).series
    assert (one.uid, one.study, one.frame_of_reference) == (f"{toys.ROOT}.7", toys.STUDY, toys.FRAME_OF_REFERENCE)
    assert (one.number, one.description, one.modality, one.sop_class) == ("3", "Thorax 1.5 mm", "CT", toys.CT)
    assert one.folder == tmp_path / "a" / "b"
    assert sorted(one.files) == sorted((tmp_path / "a" / "b").iterdir())
    assert "secret" not in repr(one)
    assert "Made" not in repr(one)
    assert not one.problem


def test_each_file_is_opened_once(tmp_path, monkeypatch):
    import builtins

    for k in range(3):
        series(tmp_path / f"p{k}" / "CT", str(20 + k))
    (tmp_path / "LICENSE.txt").write_text("free")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    opened, original = [], builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: opened.append(file) or original(file, *a, **k))
    found = scan(tmp_path)
    monkeypatch.undo()
    assert len(found.series) == 3
    here = [Path(file).name for file in opened if str(file).startswith(str(tmp_path))]
    assert len(here) == len(set(map(str, opened))) == 19  # 18 slices and the licence; the picture is known by its name


@pytest.mark.parametrize(
    ("sop_class", "modality", "rule", "tags"),
    [
        (toys.SECONDARY, "OT", "Secondary Capture (screenshot, dose report)", {}),
        (toys.SEG, "SEG", "Segmentation", {}),
        (toys.RTDOSE, "RTDOSE", "RT Dose", {}),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "RT Structure Set", {"Rows": None}),
        ("1.2.840.10008.5.1.4.1.1.88.67", "SR", "X-Ray Radiation Dose SR", {"Rows": None}),
        ("1.2.840.10008.5.1.4.1.1.11.1", "PR", "Grayscale Softcopy Presentation State", {"Rows": None}),
        ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", "Encapsulated PDF", {"Rows": None}),
        ("1.3.12.2.1107.5.9.1", "MR", "a manufacturer's own object without pixels", {"Rows": None}),
        (toys.CT, "CT", "localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        (toys.MR, "MR", "localizer by its description", {"SeriesDescription": "AAHead_Scout"}),
        (toys.CT, "CT", "screenshot", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
    ],
)
def test_what_a_rule_sets_aside(tmp_path, sop_class, modality, rule, tags):
    series(tmp_path / "CT", "7")
    file = other(tmp_path / "X" / "IM0001", sop_class, modality, "600", **tags)
    found = scan(tmp_path)
    assert [s.modality for s in found.series] == ["CT"]
    assert not found.broken
    assert [(aside.rule, aside.files) for aside in found.aside] == [(rule, (file,))]


def test_words_that_only_look_like_a_localizers(tmp_path):
    series(tmp_path, "7", SeriesDescription="location of the block, planes")
    assert len(scan(tmp_path).series) == 1


def test_a_disk_as_a_clinic_exports_it(tmp_path):
    for k, patient in enumerate(("one", "two")):
        for n, file in enumerate(series(tmp_path / "tmp", str(20 + k), PatientID=patient)):
            (tmp_path / "DICOM").mkdir(exist_ok=True)
            shutil.move(file, tmp_path / "DICOM" / f"IM{6 * k + n + 1:04d}")
    shutil.rmtree(tmp_path / "tmp")
    other(tmp_path / "DICOMDIR", "1.2.840.10008.1.3.10", "", "1", Rows=None, SeriesInstanceUID=None)
    for name in ("LICENSE.txt", "README", "AUTORUN.INF"):
        (tmp_path / name).write_text("words")
    (tmp_path / "DICOM" / "VERSION").write_text("8")
    (tmp_path / "viewer.exe").write_bytes(b"MZ\0\0" * 99)
    (tmp_path / "viewer").write_bytes(b"\x7fELF\0\0" * 99)
    (tmp_path / "overview.png").write_bytes(b"\x89PNG")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    found = scan(tmp_path)
    assert [[file.name for file in s.files] for s in found.series] == [
        [f"IM{k:04d}" for k in range(1, 7)], [f"IM{k:04d}" for k in range(7, 13)]]  # fmt: skip
    assert rules(found) == {"DICOMDIR": 1, "no DICOM": 6, "image that is no DICOM": 1}
    assert not found.broken


def test_without_a_preamble(tmp_path):
    for file in series(tmp_path, "7"):
        ds = pydicom.dcmread(file)
        file.unlink()
        pydicom.dcmwrite(file.with_suffix(""), pydicom.Dataset(ds), implicit_vr=True, little_endian=True)
    found = scan(tmp_path)
    assert [len(s.files) for s in found.series] == [6]


@pytest.mark.parametrize("content", [b"", b"\0" * 400, bytes(range(256)) * 4, b"\0" * 128 + b"DICM" + b"\xff" * 300])
def test_a_slice_that_cannot_be_read_makes_its_series_fail(tmp_path, content):
    files = series(tmp_path / "CT", "7")
    series(tmp_path / "elsewhere", "8")
    files[-1].write_bytes(content)
    found = scan(tmp_path)
    assert [one.file for one in found.broken] == [files[-1]]
    bad, good = found.series
    assert "5 files are read, but 1 of the series or beside it cannot be ('7_0006.dcm')" in bad.problem
    assert not good.problem


def test_a_header_that_is_cut_short_fails_its_own_series_wherever_it_lies(tmp_path):
    files = series(tmp_path / "CT", "7")
    series(tmp_path / "CT", "8")
    (tmp_path / "rest").mkdir()
    content = files[-1].read_bytes()
    (tmp_path / "rest" / "IM1").write_bytes(content[: content.index(b"\x28\x00\x10\x00US")])  # before Rows
    files[-1].unlink()
    found = scan(tmp_path)
    assert [(one.file.name, one.reason[:33]) for one in found.broken] == [("IM1", "is an image without rows and colu")]
    bad, good = sorted(found.series, key=lambda s: s.uid)
    assert "5 files are read, but 1 of the series or beside it cannot be ('IM1')" in bad.problem
    assert not good.problem


def test_slices_without_ending_and_one_that_is_garbage(tmp_path):
    for file in series(tmp_path, "7"):
        file.rename(file.with_suffix(""))
    (tmp_path / "7_0003").write_bytes(b"\0\1\2\3" * 100)
    found = scan(tmp_path)
    assert [one.file.name for one in found.broken] == ["7_0003"]
    assert "may lack slices" in found.series[0].problem


def test_a_file_with_the_ending_of_slices_that_is_text(tmp_path):
    for file in series(tmp_path, "7"):
        file.rename(file.with_suffix(".bin"))
    (tmp_path / "7_0003.bin").write_text("<html>not found</html>")
    assert [one.file.name for one in scan(tmp_path).broken] == ["7_0003.bin"]


@pytest.mark.parametrize("name", ["IM0007", "IM0007.txt", "im0007.bak"])
def test_what_is_numbered_as_the_slices_is_one(tmp_path, name):
    """The last slice of a stack leaves no gap: only its name tells that it lacks."""
    for k, file in enumerate(series(tmp_path, "7"), start=1):
        file.rename(tmp_path / f"IM{k:04d}")
    (tmp_path / "IM0001.txt").write_text("what the scanner noted of a slice", encoding="utf-8")
    (tmp_path / "report1.txt").write_text("a report", encoding="utf-8")
    assert not scan(tmp_path).broken
    (tmp_path / name).write_text("no slice any more", encoding="utf-8")
    found = scan(tmp_path)
    assert [one.file.name for one in found.broken] == [name]
    assert name in found.series[0].problem


def test_an_archive_is_named_and_stops_no_series(tmp_path):
    series(tmp_path, "7")
    (tmp_path / "more.zip").write_bytes(b"PK\3\4")
    found = scan(tmp_path)
    assert "is an archive" in found.broken[0].reason
    assert not found.series[0].problem


def test_one_series_in_two_folders_is_joined(tmp_path):
    for k, file in enumerate(series(tmp_path / "tmp", "7")):
        (tmp_path / f"part{k % 2}").mkdir(exist_ok=True)
        shutil.move(file, tmp_path / f"part{k % 2}" / file.name)
    (one,) = scan(tmp_path).series
    assert len(one.files) == 6
    assert one.folder == tmp_path


def test_copies_are_left_out_and_twins_refused(tmp_path):
    files = series(tmp_path / "CT", "7")
    shutil.copytree(tmp_path / "CT", tmp_path / "again")
    exported = pydicom.dcmread(files[0])  # by another program: the bytes differ, the object does not
    exported.file_meta.ImplementationVersionName = "OTHER"
    exported.save_as(tmp_path / "again" / files[0].name, enforce_file_format=True)
    (one,) = scan(tmp_path).series
    assert (len(one.files), one.copies, one.problem) == (6, 6, "")
    changed = pydicom.dcmread(files[2])
    changed.PixelData = np.zeros_like(PIXELS[0]).tobytes()
    changed.save_as(tmp_path / "again" / files[2].name)
    (one,) = scan(tmp_path).series
    assert "'7_0003.dcm' and '7_0003.dcm' are the same instance with different content" in one.problem


@pytest.mark.parametrize(
    ("tags", "words"),
    [({"StudyInstanceUID": "1.2"}, "study"), ({"PatientID": "other"}, "patient"), ({"Modality": "MR"}, "modality"),
     ({"FrameOfReferenceUID": "1.2"}, "frame of reference"), ({"SOPClassUID": toys.MR}, "class of object")],
)  # fmt: skip
def test_a_series_of_two(tmp_path, tags, words):
    files = series(tmp_path, "7")
    ds = pydicom.dcmread(files[-1])
    toys.set_all(ds, tags)
    ds.save_as(files[-1])
    (one,) = scan(tmp_path).series
    assert f"more than one {words} (2)" in one.problem


def test_a_scout_within_a_series_is_set_aside_alone(tmp_path):
    series(tmp_path, "7")
    other(tmp_path / "0.dcm", toys.CT, "CT", "7", SOPInstanceUID="1.5", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    found = scan(tmp_path)
    assert [len(s.files) for s in found.series] == [6]
    assert rules(found) == {"localizer": 1}


def test_links_to_folders_are_followed_once(tmp_path):
    series(tmp_path / "there" / "CT", "7")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "anna").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "round").symlink_to(tmp_path / "there")
    (one,) = scan(tmp_path / "in").series
    assert (len(one.files), one.copies) == (6, 0)


@pytest.fixture
def study(tmp_path: Path) -> Found:
    series(tmp_path / "1", "20", SeriesNumber=1, SeriesDescription="Thorax soft")
    series(tmp_path / "2", "21", SeriesNumber=2, SeriesDescription="Thorax lung")
    series(tmp_path / "3", "22", SeriesNumber=3, SeriesDescription="t1 mprage", modality="MR")
    series(tmp_path / "4", "23", SeriesNumber=99, SeriesDescription="Scout")
    return scan(tmp_path)


@pytest.mark.parametrize(
    ("patterns", "numbers"),
    [(["2"], ["2"]), ([f"{toys.ROOT}.22"], ["3"]), (["thorax*"], ["1", "2"]), (["*LUNG", "3"], ["2", "3"]),
     (["scout"], ["99"]), ([], ["1", "2", "3"])],
)  # fmt: skip
def test_series_are_chosen(study, patterns, numbers):
    chosen = study.choose(patterns)
    assert [s.number for s in chosen.series] == numbers
    assert sum(rules(chosen).values()) + 6 * len(chosen.series) == 24  # nobody is lost


def test_a_modality_is_chosen(study):
    chosen = study.choose(modality="ct")
    assert [s.number for s in chosen.series] == ["1", "2"]
    assert rules(chosen)["another modality than --dicom_modality"] == 6


def test_a_choice_that_fits_nothing_lists_what_there_is(study, tmp_path):
    with pytest.raises(SettingError, match=r"description 'thorax'. There is 1 CT 'Thorax soft', 2 CT 'Thorax lung'"):
        study.choose(["thorax"])
    with pytest.raises(SettingError, match="No series has the modality 'PT'"):
        study.choose(modality="PT")
    with pytest.raises(FolderError, match="no folder 'nowhere'"):
        scan(tmp_path / "nowhere")
