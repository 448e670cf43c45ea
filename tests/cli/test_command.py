"""Every command answers wrong arguments in one sentence: no traceback, the right exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nnkd.cli import command
from nnkd.cli.command import DONE, ERROR, INTERRUPTED, USAGE

COMMANDS = ("convert_dataset", "split", "predict_teachers", "aggregate", "plan_and_preprocess", "train", "predict",
            "segment_boxes", "evaluate", "plugins", "profile", "quickstart", "weights", "export")  # fmt: skip


def call(name: str, words: list[str]) -> int:
    try:
        return int(importlib.import_module(f"nnkd.cli.{name}").main(words))
    except SystemExit as end:
        return int(end.code or 0)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with broken things to name, and nnU-Net's folders with a broken dataset."""
    for room in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / room).mkdir()
        monkeypatch.setenv(room, str(tmp_path / room))
    monkeypatch.setenv("nnKD_cache", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text.nii.gz").write_text("no image")
    (tmp_path / "folder").mkdir()
    broken = tmp_path / "nnUNet_raw" / "Dataset702_Broken"
    (broken / "imagesTr").mkdir(parents=True)
    (broken / "dataset.json").write_text("{")
    (tmp_path / "nnUNet_raw" / "Dataset703_None").mkdir()
    return tmp_path


WRONG = [
    *((name, ["-d", dataset, *more]) for dataset in ("701", "702", "703", "-1", "no name", "Dataset703_None", "9" * 300)
      for name, more in (("split", []), ("aggregate", []), ("predict_teachers", ["-t", "atlas", "-device", "cpu"]),
                         ("plan_and_preprocess", []), ("train", ["2d", "0", "-device", "cpu"]),
                         ("profile", ["-c", "2d"]), ("export", ["-c", "2d", "-o", "out"]),
                         ("predict", ["-i", "folder", "-o", "out", "-c", "2d"]))),
    *((name, [*before, what, *after])
      for what in ("empty", "text.nii.gz", "folder", "missing", "x" * 300, "a/../..")
      for name, before, after in (
          ("convert_dataset", ["images_folder"], ["-d", "704", "-n", "A", "--labels", "a", "--channels", "CT"]),
          ("convert_dataset", ["msd"], ["-d", "704", "-n", "A"]),
          ("predict", ["-o", "out", "-i", "folder", "-m"], []),
          ("segment_boxes", ["-o", "out", "-i"], []),
          ("segment_boxes", ["-i", "folder", "-o"], []),
          ("evaluate", ["-o", "out", "-ref", "folder", "-i"], []),
          ("evaluate", ["-o", "out", "-i", "folder", "-ref"], []),
          ("evaluate", ["-i", "folder", "-ref", "folder", "-djfile"], []),
          ("export", ["-o", "out", "-m"], []),
          ("export", ["-o", "out", "--model"], []),
          ("weights", ["import"], []),
          ("weights", ["fetch"], []),
      )),
]  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_help_answers(name, capsys):
    assert call(name, ["--help"]) == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.heavy
def test_wrong_arguments_are_one_sentence(place, capsys):
    faults = []
    for name, words in WRONG:
        status, said = call(name, words), capsys.readouterr().err
        last = said.strip().splitlines()[-1] if said.strip() else ""
        if status not in (ERROR, USAGE) or "Traceback" in said or "error: " not in last or str(place) in last:
            faults.append((name, [word[:30] for word in words], status, last[:300]))
    assert faults == []
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["-d", "701", "--folds", "0"], "split"),
        (["-d", "701", "-np", "-1"], "aggregate"),
        (["-d", "701", "--review", "-1"], "aggregate"),
        (["-d", "701", "-t", "atlas", "-np", "0"], "predict_teachers"),
        (["-d", "701", "-t", "atlas", "--max_memory", "nan"], "predict_teachers"),
        (["-i", "a", "-o", "b", "-m", "c", "-step_size", "0"], "predict"),
        (["-i", "a", "-o", "b", "-m", "c", "-num_parts", "0"], "predict"),
        (["-i", "a", "-o", "b", "-m", "c", "-npp", "-1"], "predict"),
        (["-i", "a", "-o", "b", "-m", "c", "-device", "tpu"], "predict"),
        (["-i", "a", "-o", "b", "--threads", "0"], "segment_boxes"),
        (["-i", "a", "-o", "b", "--max_memory", "inf"], "segment_boxes"),
        (["-i", "a", "-ref", "b", "--bootstrap", "-1"], "evaluate"),
        (["-i", "a", "-ref", "b", "--tolerance", "inf"], "evaluate"),
        (["-m", "a", "-o", "b", "--tolerance", "nan"], "export"),
        (["-d", "701", "--test", "nan"], "split"),
        (["--epochs", "0"], "quickstart"),
    ],
)
def test_numbers_that_make_no_sense(place, capsys, words, name):
    assert call(name, words) in (ERROR, USAGE)
    assert "Traceback" not in capsys.readouterr().err


def test_without_nnunets_folders(monkeypatch, capsys):
    for room in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(room, raising=False)
    for name, words in (("split", ["-d", "Dataset701_A"]), ("aggregate", ["-d", "Dataset701_A"])):
        assert call(name, words) == ERROR
        assert "variable nnUNet_raw is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/secret/a.csv"), "'a.csv' may not be read or written"),
        (OSError(errno.EROFS, "Read-only file system", "/secret/a.csv"), "'a.csv' may not be read or written"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/secret/a.csv"), "'a.csv' is a folder"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"/secret/a.csv"), "'a.csv' is to lie in a file"),
        (FileExistsError(errno.EEXIST, "File exists", "/secret/a"), "'a' is a file already"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/secret/a"), "'a' is missing"),
        (OSError(errno.ENOSPC, "No space left"), "the disk is full"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/secret/" + "x" * 300), "too long a name"),
        (OSError("something"), "(something)"),
        (MemoryError("Unable to allocate 4 TiB"), "not enough memory (Unable to allocate 4 TiB)"),
        (RecursionError("deep"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "no UTF-8"),
    ],
)
def test_errors_of_the_system_are_one_sentence(error, sentence, capsys):
    def fails(_):
        raise error

    assert command.run(fails, argparse.Namespace()) == ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert "secret" not in said


def test_a_programming_error_keeps_its_traceback_and_says_how_to_report_it(capsys):
    assert command.run(lambda _: 1 // 0, argparse.Namespace()) == ERROR  # type: ignore[arg-type, return-value]
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "fault of nnkd (ZeroDivisionError: " in said.splitlines()[-1]


COMPUTES = """
import argparse, sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import pbkdf2_hmac
from nnkd.cli import command

command.ENDING_S = 1.0

def compute(_):
    print("computing", flush=True)
    pbkdf2_hmac("sha1", b"", b"", 10**9)  # minutes in C, without the GIL, as ITK's registration

def action(_):
    with ThreadPoolExecutor(1) as pool:
        compute(0) if sys.argv[1] == "here" else list(pool.map(compute, [0]))

sys.exit(command.run(action, argparse.Namespace()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("where", ["here", "in a thread"])
def test_an_interrupt_ends_the_command_while_it_computes_in_c(where):
    ours = subprocess.Popen(
        [sys.executable, "-c", COMPUTES, where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert ours.stdout.readline() == "computing\n"
        ours.send_signal(signal.SIGINT)
        _, said = ours.communicate(timeout=20)
    finally:
        ours.kill()
    assert ours.returncode == INTERRUPTED
    assert said.startswith("interrupted; run the same command again")
    assert "Traceback" not in said


def test_no_signal_no_end(monkeypatch):
    """What is caught by a command, or raised by it, leaves nothing behind that would end the process later."""
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    monkeypatch.setattr(command, "ENDING_S", 0.0)

    def interrupted(_):
        raise KeyboardInterrupt

    assert command.run(interrupted, argparse.Namespace()) == INTERRUPTED
    assert command.run(lambda _: None, argparse.Namespace()) == DONE
    assert signal.set_wakeup_fd(before) == before
