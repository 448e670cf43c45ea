"""What gets installed: packages, commands, entry points, and nothing else."""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
INSTALLED = ("nnkd", "plugins", "dataset_conversion")
TOP_LEVEL = {"setup.cfg", "pyproject.toml", "nnkd", "plugins", "dataset_conversion", "tests", "README.md", "LICENSE"}


def setup_cfg() -> configparser.ConfigParser:
    """setup.cfg as it stands."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines(section: str, key: str) -> list[str]:
    """The lines of a value."""
    return setup_cfg()[section][key].strip().splitlines()


def packages_on_disk() -> set[str]:
    """Folders that hold Python files, by the name they are installed under."""
    found = set()
    for parent, prefix in ((ROOT, ""), (ROOT / "plugins", ""), (ROOT, "nnkd_")):
        pattern = {"": "nnkd", "nnkd_": "dataset_conversion"}[prefix] if parent == ROOT else "*"
        for file in parent.glob(f"{pattern}/**/*.py"):
            found.add(prefix + ".".join(file.relative_to(parent).parent.parts))
    return found


def test_the_package_list_equals_the_disk():
    assert sorted(lines("options", "packages")) == sorted(packages_on_disk())


def test_every_plugin_folder_is_an_entry_point():
    points = dict(line.split(" = ") for line in lines("options.entry_points", "nnkd"))
    folders = {folder.parent.name for folder in (ROOT / "plugins").glob("*/__init__.py")}
    assert set(points.values()) == folders
    assert all(f"nnkd_{name}" == module for name, module in points.items())


def test_every_command_points_to_a_main_that_exists():
    for line in lines("options.entry_points", "console_scripts"):
        name, target = line.split(" = ")
        module, function = target.split(":")
        file = ROOT / (module.replace(".", "/") + ".py")
        assert name == f"nnKD_{file.stem}"
        if file.is_file():
            functions = {n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef)}
            assert function in functions


def test_every_command_module_is_a_command():
    commands = {line.split(" = ")[1].split(":")[0] for line in lines("options.entry_points", "console_scripts")}
    modules = {
        f"nnkd.cli.{f.stem}" for f in (ROOT / "nnkd" / "cli").glob("*.py") if f.stem not in ("__init__", "command")
    }
    assert modules <= commands


def test_the_sources_are_python_3_10():
    files = [*ROOT.glob("*.py")]
    for folder in (*INSTALLED, "tests", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    for file in files:
        ast.parse(file.read_text(encoding="utf-8"), str(file), feature_version=(3, 10))
    assert len(files) > 20


def test_extras_name_each_other_and_what_exists():
    extras = setup_cfg()["options.extras_require"]
    teachers, students = {"sam", "sam2", "totalsegmentator", "litemedsam"}, {"hsnet", "networks"}
    wanted = {"quickstart", "profile", "ray", "export", "dicom", "test", "all"} | teachers | students
    assert set(extras) == wanted
    for name in ("quickstart", "all"):
        inner = extras[name].strip().removeprefix("nnkd[").removesuffix("]").split(",")
        assert set(inner) <= wanted - {name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of a copy of the repository, made as pip makes it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in TOP_LEVEL:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(copy)]
    run = subprocess.run(build, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return next(folder.glob("nnkd-*.whl"))


def test_the_wheel_puts_no_generic_name_into_site_packages(wheel):
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    plugins = {folder.parent.name for folder in (ROOT / "plugins").glob("*/__init__.py")}
    info = {name for name in names if name.endswith(".dist-info")}
    assert names - info == {"nnkd", "nnkd_dataset_conversion", *plugins}
    assert len(info) == 1


def test_the_wheel_holds_every_module_and_template(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, prefix in (("nnkd", "nnkd"), ("plugins", ""), ("dataset_conversion", "nnkd_dataset_conversion")):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".typed") or file.parent.name in ("templates", "tables"):
                assert str(Path(prefix) / file.relative_to(ROOT / folder)) in inside


def test_the_wheel_brings_the_licence_and_the_commands(wheel):
    archive = zipfile.ZipFile(wheel)
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    points = archive.read(next(n for n in archive.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "nnKD_plugins = nnkd.cli.plugins:main" in points
    assert "basic = nnkd_basic" in points
