"""A third party's plugin, really installed with pip; and broken ones, which stop nobody."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from planned import configuration, make_plans, preprocess, preprocessed_folder
from processes import python
from toy import toy_teacher

from nnkd.paths import room
from nnkd.weights.checkpoints import load_checkpoint

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
THIRD_PARTY = ROOT / "tests" / "third_party"
STUDENT = ROOT / "tests" / "third_party_student"
CODE = "import sys; from nnkd.cli.{} import main; sys.exit(main(sys.argv[1:]))"


def nnkd_plugins(*arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """nnKD_plugins in a process of its own, with a folder of installed distributions."""
    return command("plugins", *arguments, path=path, **environment)


def command(name: str, *arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Any command, likewise."""
    return subprocess.run(
        [sys.executable, "-c", CODE.format(name), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT), str(ROOT / "plugins")]), **environment},
    )


def heavy_command(name: str, *arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in a copy of a process that has imported torch."""
    return python(CODE.format(name), *arguments, path=[path], environment={**os.environ, **environment})


def installed(source: Path, folder: Path) -> Path:
    """A folder with a distribution, installed by pip from a copy of its sources."""
    copy = shutil.copytree(source, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
    ]
    run = subprocess.run(
        [*install, "--target", str(folder / "site"), str(copy)], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The example plugin."""
    return installed(THIRD_PARTY, tmp_path_factory.mktemp("third_party"))


@pytest.fixture(scope="module")
def site_of_student(tmp_path_factory) -> Path:
    """The example student."""
    return installed(STUDENT, tmp_path_factory.mktemp("third_party_student"))


def test_it_is_listed(site):
    run = nnkd_plugins(path=site)
    assert run.returncode == 0, run.stderr
    for words in (["threshold", "nnkd-example", "1.0.0", "Apache-2.0"], ["at_least", "nnkd-example", "1.0.0"]):
        assert re.search(r"\s+".join(map(re.escape, words)), run.stdout)
    assert "set aside" not in run.stdout


def test_it_is_listed_as_json(site):
    listed = json.loads(nnkd_plugins("--json", path=site).stdout)
    mine = {e["name"]: kind for kind, entries in listed["plugins"].items() for e in entries if e["plugin"] == "example"}
    assert mine == {"threshold": "teacher", "at_least": "aggregator"}
    assert listed["set_aside"] == []


@pytest.mark.parametrize("package", ["nnkd_example", "nnkd-example"], ids=["module", "distribution"])
def test_it_is_valid(site, package):
    run = nnkd_plugins("validate", package, path=site)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 failed, 0 not tried" in run.stdout.splitlines()[-1]
    assert re.search(r"ok +teacher threshold +3D volume", run.stdout)
    assert re.search(r"ok +aggregator at_least +abstentions", run.stdout)


def test_it_can_be_disabled(site):
    listed = json.loads(nnkd_plugins("--json", path=site, NNKD_DISABLED_PLUGINS="example").stdout)
    assert listed["disabled"] == ["example"]
    assert all(e["plugin"] != "example" for entries in listed["plugins"].values() for e in entries)


def test_its_teacher_and_aggregator_are_used_though_another_plugin_is_broken(site, dataset, tmp_path):
    install(tmp_path, "import no_such_package")
    path = Path(os.pathsep.join([str(site), str(tmp_path)]))
    teachers = ["-t", "threshold", "bright=threshold", "third=threshold", "-device", "cpu", "-np", "1"]
    options = ["--set", "threshold.low=130", "threshold.label=spleen", "bright.low=190", "third.label=spleen"]
    run = command("predict_teachers", "-d", "701", *teachers, *options, path=path)
    assert run.returncode == 0, run.stderr
    votes, target = dataset.teachers_folder(), tmp_path / "out"
    run = command(
        "aggregate", "-d", "701", "-i", str(votes), "-o", str(target), "-a", "at_least", "--set", "at_least.number=2",
        path=path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    spec = dataset.spec
    for case in dataset.images().cases():
        bright, one, third, target_map = (
            spec.read_label_map(folder / f"{case}.nii.gz")[0]
            for folder in (votes / "bright", votes / "threshold", votes / "third", target)
        )
        assert set(np.unique(one)) == {0, 2}  # the spleen alone: an abstention for the liver
        spleen = (one == 2) & (third == 2)  # both answer for it, so both are needed
        assert (target_map[spleen & (bright != 1)] == 2).all()
        assert spleen.any()
        assert spleen[target_map == 2].all()
        assert (target_map[(bright == 1) & ~spleen] == 1).all()  # nobody else answers for the liver
    manifest = json.loads((target / "manifest.json").read_text())
    assert "at_least" in json.dumps(manifest)


def test_its_teacher_and_aggregator_do_what_they_say(monkeypatch):
    monkeypatch.syspath_prepend(THIRD_PARTY)
    from nnkd_example import AtLeast, Threshold

    from nnkd import NnkdError, TeacherContext
    from nnkd.plugin._toys import toy_volume

    teacher = Threshold(TeacherContext(labels=("a", "b")), label="b", low=100.0)
    masks = teacher.predict(toy_volume(8), {})
    assert list(masks) == ["b"]
    assert masks["b"][4, 21, 18]
    assert not masks["b"][4, 10, 9]  # the ball of 60 lies below
    nothing = Threshold(TeacherContext(labels=("a",)), low=1e6, high=2e6).predict(toy_volume(8), {})
    assert not nothing["a"].any()
    with pytest.raises(NnkdError, match="'c', but the dataset has a"):
        Threshold(TeacherContext(labels=("a",)), label="c")
    answers = np.array([[True, True], [True, False], [True, False]])
    table = AtLeast().table(np.zeros((2, 8), dtype=np.int64), answers)
    assert table[0].tolist() == [0, 0, 0, 1, 0, 1, 1, 1]
    assert table[1, :2].tolist() == [0, 1]  # only one teacher answers: its yes is enough


def code_blocks(page: Path) -> list[str]:
    """Code blocks of a Markdown page."""
    return re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md"])
@pytest.mark.parametrize("file", ["nnkd_example.py", "pyproject.toml"])
def test_the_pages_show_the_plugin_as_it_is_tested(page, file):
    blocks = code_blocks(ROOT / page)
    if page == "README.md" and not any("nnkd_register_" in block for block in blocks):
        pytest.skip("README.md shows no plugin yet")
    assert (THIRD_PARTY / file).read_text(encoding="utf-8") in blocks


@pytest.mark.parametrize("file", ["nnkd_dilated/__init__.py", "nnkd_dilated/trainer.py", "pyproject.toml"])
def test_the_page_shows_the_student_as_it_is_tested(file):
    assert (STUDENT / file).read_text(encoding="utf-8") in code_blocks(ROOT / "docs" / "plugins.md")


def test_the_page_names_every_member_of_a_student():
    from nnkd.plugin._student_checks import ATTRIBUTES, METHODS, OF_OWN_DATA
    from nnkd.plugin.students import OwnData, Student

    rows = re.findall(r"^\| `(\w+)(?:\((.*?)\))?` \|", (ROOT / "docs" / "plugins.md").read_text(), flags=re.MULTILINE)
    page = dict(rows)
    for name in ATTRIBUTES:
        assert page[name] == ""
    for interface, names in ((Student, METHODS), (OwnData, OF_OWN_DATA)):
        for name in names:
            assert page[name] == ", ".join(inspect.signature(getattr(interface, name)).parameters)
        own = {name for name in vars(interface) if not name.startswith("_")}
        assert own - {"takes_auxiliaries"} <= {*ATTRIBUTES, *METHODS, *OF_OWN_DATA}


def test_a_student_of_others_is_valid(site_of_student):
    run = heavy_command("plugins", "validate", "nnkd-dilated", path=site_of_student)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 failed, 0 not tried" in run.stdout.splitlines()[-1]
    assert re.search(r"ok +student nnUNetTrainerDilated +3D network", run.stdout)


def test_a_student_of_others_trains_for_an_epoch(site_of_student, dataset):
    for case in dataset.images().cases():
        if not dataset.label_file(case).is_file():
            dataset.label_file(case).write_bytes(dataset.label_file("toy_000").read_bytes())
    for number in range(2):
        toy_teacher(dataset, f"t{number}", shift=number, seed=number)
    preprocess(dataset, make_plans(dataset, {"2d": configuration("2d", (16, 16), (1.0, 1.0))}), "2d")
    splits = [{"train": ["toy_000", "toy_001"], "val": ["toy_003"]}]
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(splits))
    flags = ["701", "2d", "0", "-tr", "nnUNetTrainerDilated", "-device", "cpu"]
    short = ["-n", "theirs", "--set", "epochs=1", "iterations=1", "val_iterations=1", "width=4"]
    run = heavy_command("train", *flags, *short, path=site_of_student, nnUNet_n_proc_DA="0")
    assert run.returncode == 0, run.stdout + run.stderr
    recipe = json.loads((preprocessed_folder(dataset) / "nnUNetPlans_theirs.json").read_text())["nnkd"]
    assert recipe["options"]["width"] == 4
    assert recipe["aggregator"]["name"] == "mean"
    model = room("nnUNet_results") / dataset.name / "nnUNetTrainerDilated__nnUNetPlans_theirs__2d"
    assert (
        load_checkpoint(model / "fold_0" / "checkpoint_final.pth")["network_weights"]["layers.0.weight"].shape[0] == 4
    )
    run = heavy_command("train", *flags, "--set", "patch_size=8,8", path=site_of_student)
    assert run.returncode == 1
    assert "looks 16 voxels far, but patches have [8, 8]" in run.stderr


BROKEN = {
    "cannot be imported": ("import no_such_package", "No module named 'no_such_package'"),
    "misspelt hook": (
        """
        from nnkd import Entry, hookimpl
        @hookimpl
        def nnkd_register_agregators():
            return []
        """,
        "nnkd_register_agregators",
    ),
    "wrong type": (
        """
        from nnkd import hookimpl
        @hookimpl
        def nnkd_register_teachers():
            return ["threshold"]
        """,
        "nnkd.Entry objects are expected",
    ),
    "duplicate": (
        """
        from nnkd import Entry, hookimpl
        @hookimpl
        def nnkd_register_aggregators():
            return [Entry("mean", "broken:Mean", "another mean", licence="MIT")]
        """,
        "the aggregator 'mean' is already offered by 'basic' (nnkd)",
    ),
}


def install(folder: Path, code: str, name: str = "broken") -> None:
    """A distribution on disk, as pip leaves it behind."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[nnkd]\n{name} = {name}\n")


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason(tmp_path, what):
    code, reason = BROKEN[what]
    install(tmp_path, code)
    run = nnkd_plugins(path=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "broken, set aside" in run.stdout
    assert reason in run.stdout
    assert re.search(r"mean +nnkd ", run.stdout)  # the others are there
    silenced = nnkd_plugins(path=tmp_path, NNKD_DISABLED_PLUGINS="broken")
    assert "set aside" not in silenced.stdout


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_not_valid(tmp_path, what):
    install(tmp_path, BROKEN[what][0])
    run = nnkd_plugins("validate", "broken", path=tmp_path)
    assert run.returncode == 1
    assert re.search(r"^failed", run.stdout, flags=re.MULTILINE)


def test_a_package_that_is_not_there_is_said_so(tmp_path):
    run = nnkd_plugins("validate", "no_such_plugin", path=tmp_path)
    assert run.returncode == 1
    assert "'no_such_plugin' is neither an installed distribution" in run.stderr
