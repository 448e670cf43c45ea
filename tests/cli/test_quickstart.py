"""The one test of everything: nnKD_quickstart as a newcomer calls it, with four people instead of twelve, of whom one
is held out and two are atlases, scans of a sixteenth of the size and a training of one short epoch. Three commands of
the first run, and all of the second, are copies of a process that has imported the large libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from extras import needs
from processes import python

from nnkd.cli import quickstart
from nnkd.data.phantoms import cohort
from nnkd.data.predictions import PredictionFolder

pytestmark = [needs("litemedsam"), pytest.mark.heavy]
FEWER = {
    "--test 4 --labelled 3": "--test 1 --labelled 2 --folds 3",
    "iterations=40 val_iterations=4": "iterations=2 val_iterations=1",
    "batch_size=4 patch_size=64,64": "batch_size=2 patch_size=32,32",
    "-npfp 2 -np 2": "-npfp 1 -np 1",
    # lungs in the others' grey scale: each slice is encoded once
    "rigid.registration=affine": """'litemedsam.windows={"lung": "soft_tissue"}' rigid.registration=affine""",
}

PLANNING = """
import pytest
from planned import sample_few
sample_few(pytest.MonkeyPatch())
"""


def smaller(patch: pytest.MonkeyPatch) -> None:
    """The tour through a small cohort, and one process where nnU-Net would start two."""
    tour, environment = quickstart.TOUR, quickstart._environment
    for long, short in FEWER.items():
        assert long in tour
        tour = tour.replace(long, short)
    patch.setattr(quickstart, "CASES", 4)
    patch.setattr(quickstart, "TOUR", tour)
    patch.setattr(quickstart, "_environment", lambda folder: {**environment(folder), "nnUNet_def_n_proc": "1"})
    draw = partial(cohort.write_cohort, shape=(4, 48, 48), spacing=(47.5, 8.4, 8.4))
    patch.setattr(cohort, "write_cohort", draw)


class Copied:
    """In the place of subprocess.Popen."""

    def __init__(self, words: Sequence[str], *, cwd: Path, env: dict[str, str], **_: Any):
        _, _, code, *arguments = words
        self.done = python(PLANNING + code, *arguments, folder=cwd, environment=env)
        self.stdout = self.done.stdout.splitlines(keepends=True)

    def wait(self) -> int:
        print(self.done.stderr, file=sys.stderr)
        return self.done.returncode


def begin(words: Sequence[str], **more: Any) -> Copied | subprocess.Popen[str]:
    """A command of the first run: two that import nnU-Net, as the training does, and the teachers who come again are
    copies."""
    again = "nnkd.cli.predict_teachers" in words[2] and "--test" in words
    is_copy = again or any(f"nnkd.cli.{name} " in words[2] for name in ("plan_and_preprocess", "predict"))
    return Copied(words, **more) if is_copy else subprocess.Popen(words, **more)


def call(patch: pytest.MonkeyPatch, folder: Path, begin: Callable[..., Any]) -> int:
    for name in [name for name in os.environ if name.startswith("nnUNet_")]:
        patch.delenv(name)
    smaller(patch)
    patch.setattr(quickstart, "subprocess", SimpleNamespace(Popen=begin, PIPE=subprocess.PIPE))
    return quickstart.main(["-o", str(folder), "--epochs", "1", "-device", "cpu"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer") / "quick start"  # with a space, as people have it
    said = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        assert call(patch, folder, begin) == 0, said.getvalue()
    return folder, said.getvalue()


def test_everything_is_there(finished):
    folder, said = finished
    raw = folder / "nnUNet_raw" / "Dataset701_Phantoms"
    assert len(list((raw / "imagesTr").iterdir())) == 3
    assert len(list((raw / "imagesTs").iterdir())) == 1
    for teacher in ("rigid", "deformable", "litemedsam"):
        assert len(PredictionFolder(raw / "teachersTr" / teacher).cases()) == 3
    assert PredictionFolder(folder / "student").manifest().made_by == "nnUNetTrainerUNet"
    report = (folder / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "not a medical device" in report.lower()
    assert "http://" not in report.replace("http://www.w3.org", "")
    assert "simulated" in said
    means = pandas.read_csv(folder / "evaluation" / "means.csv")
    overall = means[(means.metric == "DSC")].groupby("folder")["mean"].mean()
    assert overall["deformable"] > 0.5


def test_nothing_personal_leaves_the_dataset_folder(finished):
    folder, _ = finished
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=False).stdout.strip() or "no host name"
    for place in ("student", "consensus", "evaluation", "nnUNet_results"):
        for file in (folder / place).rglob("*"):
            if file.suffix in (".json", ".csv", ".html", ".txt"):
                text = file.read_text(encoding="utf-8")
                assert str(folder) not in text, file
                assert f'"{host}"' not in text, file
                assert '"bmi"' not in text, file


def test_called_again_it_repeats_nothing(finished, monkeypatch, capsys):
    folder, _ = finished
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*.nii.gz")}
    assert call(monkeypatch, folder, Copied) == 0
    assert capsys.readouterr().out.count("done before") == 2
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*.nii.gz")} == before


def test_the_commands_it_writes_are_those_it_ran(finished):
    folder, said = finished
    script = (folder / "commands.sh").read_text(encoding="utf-8")
    for line in said.splitlines():
        if line.startswith("    nnKD_"):
            assert line.strip() in script
    assert subprocess.run(["bash", "-n", folder / "commands.sh"], check=False).returncode == 0


@pytest.mark.parametrize("fast", [False, True])
def test_bfloat16_only_where_it_is_asked_for(fast):
    lines = [" ".join(item.arguments) for item in quickstart.tour(1, "cpu", fast)]
    assert sum("litemedsam.precision=bfloat16 " in line for line in lines) == 2 * fast
    assert sum(" precision=bfloat16 " in line for line in lines) == fast
    assert not any("PRECISION" in line for line in lines)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    code = "import sys; from nnkd.cli.quickstart import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "-o", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "is not empty and no earlier quickstart" in result.stderr
