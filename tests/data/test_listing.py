"""Every file of a folder is used, set aside by a rule, or not understood: one of the three, and never none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkd.cli.command import show
from nnkd.data import listing
from nnkd.types import Failure, FolderCount, StepReport

WORDS = ("c1", "c2", "a.b", "._c1", "readme", "dataset", "c1_0000", "c1_0001", "c2_0000", "_0000", ".c1", "~$c1", "ü")
ENDINGS = (".nii.gz", ".nii", ".NII.GZ", ".png", ".json", ".txt", ".npz", ".pkl", "", ".nii.gz.part", ".bak", "/")


def put(folder: Path, *names: str) -> Path:
    for name in names:
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
    return folder


@given(st.sets(st.tuples(st.sampled_from(WORDS), st.sampled_from(ENDINGS)), max_size=25), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_file_is_in_one_of_the_three(files, channels):
    with tempfile.TemporaryDirectory() as place:
        names = {word + ending for word, ending in files}
        folder = put(Path(place), *sorted(name for name in names if not (name.endswith("/") and name[:-1] in names)))
        found = (listing.images if channels else listing.label_maps)(folder, ".nii.gz")
        used = [file.name for files in found.cases.values() for file in files]
        aside = [name for names in found.aside.values() for name in names]
        assert sorted([*used, *aside, *found.unknown]) == sorted(path.name for path in folder.iterdir())
        count = found.count()
        assert (count.used, sum(map(len, count.aside.values())), len(count.unknown)) == (
            len(used), len(aside), len(found.unknown),
        )  # fmt: skip
        assert all(name.endswith(".nii.gz") and name[0] != "." for name in used)


def test_images_are_told_from_what_lies_beside_them(tmp_path):
    folder = put(
        tmp_path, "c1_0000.nii.gz", "c1_0001.nii.gz", "a.b_0000.nii.gz", "a.b_0000.json", "._c1_0000.nii.gz",
        ".DS_Store", "Thumbs.db", "desktop.ini", "~$notes.docx", "c1_0000.nii.gz~", "@eaDir/x", "README.md", "LICENSE",
        ".gitkeep", ".writing-0123-c1_0000.nii.gz", "dataset.json", "preview.png", "out/manifest.json",
        "notes.txt", "c2.nii.gz", "c3_0000.NII.GZ", "c4_0000.nii", "c5_0000.png", "sub/c6_0000.nii.gz",
        "c7_0000.nii.gz.part",
    )  # fmt: skip
    (folder / "c8_0000.nii.gz").symlink_to(folder / "gone")
    found = listing.images(folder, ".nii.gz")
    assert {case: [file.name for file in files] for case, files in found.cases.items()} == {
        "a.b": ["a.b_0000.nii.gz"],
        "c1": ["c1_0000.nii.gz", "c1_0001.nii.gz"],
    }
    assert dict(found.aside) == {
        "shadow file of macOS": ("._c1_0000.nii.gz",),
        "system file": (".DS_Store", "@eaDir", "Thumbs.db", "desktop.ini"),
        "hidden file": (".gitkeep",),
        "temporary file of nnkd": (".writing-0123-c1_0000.nii.gz",),
        "backup of an editor": ("c1_0000.nii.gz~", "~$notes.docx"),
        "document": ("LICENSE", "README.md"),
        "sidecar of an image": ("a.b_0000.json",),
        "file of nnkd or nnU-Net": ("dataset.json",),
        "folder of nnkd or nnU-Net": ("out",),
        "picture beside volumes": ("preview.png",),
    }
    assert found.unknown == {
        "notes.txt": "CASE_0000.nii.gz was expected",
        "c2.nii.gz": "it lacks the number of its channel: CASE_0000.nii.gz was expected",
        "c3_0000.NII.GZ": "its ending is not .nii.gz as dataset.json writes it",
        "c4_0000.nii": "its ending is not .nii.gz, which dataset.json names",
        "c5_0000.png": "its ending is not .nii.gz, which dataset.json names",
        "sub": "it is a folder, but CASE_0000.nii.gz was expected in this one",
        "c7_0000.nii.gz.part": "it is an unfinished download",
        "c8_0000.nii.gz": "it is a link to a file that is gone",
    }


def test_numbers_at_the_end_of_a_name_are_no_channels(tmp_path):
    found = listing.images(put(tmp_path, "x_0000.png", "x_0000_0000.png", "x_0000_0001.png"), ".png")
    assert {case: len(files) for case, files in found.cases.items()} == {"x": 1, "x_0000": 2}


def test_what_nnunet_writes_beside_label_maps_is_set_aside(tmp_path):
    own = ("dataset.json", "plans.json", "predict_from_raw_data_args.json", "summary.json", "postprocessing.pkl")
    folder = put(tmp_path, "c1.nii.gz", "c1.npz", "c1.pkl", *own, "postprocessed/c1.nii.gz")
    found = listing.label_maps(folder, ".nii.gz")
    assert (list(found.cases), found.unknown) == (["c1"], {})
    assert found.aside["probabilities of a label map"] == ("c1.npz", "c1.pkl")
    put(tmp_path, "c2.npz")  # probabilities of nothing
    assert list(listing.label_maps(folder, ".nii.gz").unknown) == ["c2.npz"]


def test_pictures_beside_pictures_are_no_previews(tmp_path):
    found = listing.label_maps(put(tmp_path, "c1.png", "c2.jpg"), ".png")
    assert (list(found.cases), list(found.unknown)) == (["c1"], ["c2.jpg"])


def test_parts_share_the_files(tmp_path):
    whole = listing.images(put(tmp_path, *(f"c{k}_0000.png" for k in range(5)), "notes.txt", ".DS_Store"), ".png")
    parts = [whole.part(number, 2) for number in range(2)]
    assert [list(part.cases) for part in parts] == [["c0", "c2", "c4"], ["c1", "c3"]]
    assert [(len(part.aside), len(part.unknown)) for part in parts] == [(1, 1), (0, 0)]


def test_cases_of_others_are_named(tmp_path):
    whole = listing.label_maps(put(tmp_path, "a.png", "b.png"), ".png")
    assert whole.only(["a"], why="it has no image").unknown == {"b.png": "it has no image"}
    assert whole.only(["a"], rule="without reference").aside == {"without reference": ("b.png",)}
    assert whole.only(["a", "b"], rule="without reference") is whole


def test_names_are_shown_on_one_line(tmp_path):
    assert listing.shown("a\nb") == "a\\nb"
    assert listing.shown(os.fsdecode(b"\xff.txt")) == "\\xff.txt"
    folder = put(tmp_path, "c1_0000.png", "a\nb.txt")
    assert list(listing.images(folder, ".png").unknown) == ["a\\nb.txt"]


def test_the_count_is_the_last_line_and_says_the_exit_code(capsys):
    count = FolderCount("imagesTr", 10, {"shadow file of macOS": ["._c0_0000.nii.gz"]}, {"notes.txt": "no image"})
    assert show(StepReport(lines=["done"], failures=[Failure("c1", "it is empty")], folders=[count])) == 3
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "done",
        "imagesTr: 12 files came in: 10 used, 1 set aside (shadow file of macOS: ._c0_0000.nii.gz), 1 not understood "
        "(notes.txt)",
    ]
    assert "  notes.txt in imagesTr: no image" in said.err.splitlines()
    assert show(StepReport(folders=[FolderCount("a", 1, {"document": ["README"]})])) == 0
    assert show(StepReport(folders=[FolderCount("a", 1, {}, {"x": "?"})])) == 3


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (FolderCount("a", 1), "a: 1 file came in: 1 used"),
        (FolderCount("a", 0, {"hidden file": [f".{k}" for k in range(9)]}),
         "a: 9 files came in: 0 used, 9 set aside (hidden file: .0, .1, .2 and 6 more)"),
    ],
)  # fmt: skip
def test_long_lists_are_shortened(count, line):
    assert count.line == line
