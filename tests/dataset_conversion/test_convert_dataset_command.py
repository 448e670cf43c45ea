from __future__ import annotations

import subprocess
import sys

import made_up
import pytest

from nnkd.cli.convert_dataset import conversions, main

NAMES = [
    *("acdc", "amos22", "brats", "btcv", "drive", "fets", "flare22", "images_folder", "medsam_npz", "msd"),
    *("one_file_per_label", "totalsegmentator", "wmh", "word"),
]


UNTRIED = ("acdc", "amos22", "btcv", "fets", "flare22", "totalsegmentator", "wmh", "word")


def test_lists_all_with_one_line_each(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out == out
    assert list(conversions()) == NAMES
    for name, line in conversions().items():
        assert line.endswith((".", "..."))
        assert f"{name} " in out
        assert line in out


def test_listing_imports_nothing_heavy():
    code = "import sys; from nnkd.cli.convert_dataset import main; main([]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"numpy", "SimpleITK", "torch", "nnunetv2", "pandas", "nnkd_dataset_conversion.msd"}


def test_unknown_name(capsys):
    assert main(["brat"]) == 1
    error = capsys.readouterr().err
    assert "no conversion 'brat'; is it brats?" in error
    assert all(name in error for name in NAMES)


@pytest.mark.parametrize("name", ["images_folder", "Images-Folder"])
def test_hands_the_rest_on(tmp_path, nnunet_folders, name):
    made_up.picture(tmp_path / "i" / "a.png")
    assert main([name, str(tmp_path / "i"), "-d", "710", "-n", "A", "--labels", "x"]) == 0
    (tmp_path / "i" / "b.png").write_bytes(b"")
    assert main([name, str(tmp_path / "i"), "-d", "710", "-n", "A", "--labels", "x"]) == 3


@pytest.mark.parametrize("name", NAMES)
def test_help_of_each(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: nnKD_convert_dataset {name} " in out
    assert f"example: nnKD_convert_dataset {name} " in out
    assert "-d DATASET" in out


@pytest.mark.parametrize("name", UNTRIED)
def test_what_nobody_tried_says_so(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert "untried on the real set" in out
    assert all(f"\n{what}:" in out for what in ("Layout", "Licence", "Source"))
