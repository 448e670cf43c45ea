"""The one test of everything: nnKD_quickstart as a newcomer calls it, with seven people instead of twelve, of whom two
are held out and two are atlases, scans of a fifth of the size and a training of one short epoch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from extras import needs

from nnkd.cli.quickstart import tour
from nnkd.data.predictions import PredictionFolder

pytestmark = [needs("litemedsam"), pytest.mark.heavy]
CODE = """
import sys
from functools import partial
from nnkd.cli import quickstart
from nnkd.data import phantoms
quickstart.CASES = 7
fewer = {"--test 4 --labelled 3": "--test 2 --labelled 2", "iterations=40": "iterations=4"}
for long, short in {**fewer, "batch_size=4": "batch_size=2"}.items():
    assert long in quickstart.TOUR
    quickstart.TOUR = quickstart.TOUR.replace(long, short)
phantoms.write_cohort = partial(phantoms.write_cohort, shape=(4, 72, 72), spacing=(47.5, 5.6, 5.6))
sys.exit(quickstart.main())
"""


def quickstart(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    command = [sys.executable, "-c", CODE, "-o", str(folder), *arguments]
    return subprocess.run(command, env=environment, cwd=folder.parent, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newcomer") / "quick start"  # with a space, as people have it
    result = quickstart(folder, "--epochs", "1", "-device", "cpu")
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result.stdout


def test_everything_is_there(finished):
    folder, said = finished
    raw = folder / "nnUNet_raw" / "Dataset701_Phantoms"
    assert len(list((raw / "imagesTr").iterdir())) == 5
    assert len(list((raw / "imagesTs").iterdir())) == 2
    for teacher in ("rigid", "deformable", "litemedsam"):
        assert len(PredictionFolder(raw / "teachersTr" / teacher).cases()) == 5
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


def test_called_again_it_repeats_nothing(finished):
    folder, _ = finished
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*.nii.gz")}
    result = quickstart(folder, "--epochs", "1", "-device", "cpu")
    assert result.returncode == 0
    assert result.stdout.count("done before") == 2
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
    lines = [" ".join(item.arguments) for item in tour(1, "cpu", fast)]
    assert sum("litemedsam.precision=bfloat16 " in line for line in lines) == 2 * fast
    assert sum(" precision=bfloat16 " in line for line in lines) == fast
    assert not any("PRECISION" in line for line in lines)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    result = quickstart(tmp_path)
    assert result.returncode == 1
    assert "is not empty and no earlier quickstart" in result.stderr
