"""Tests of .ci/run: it runs the very command that README.md gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def show(readme: Path) -> subprocess.CompletedProcess[str]:
    """.ci/run --show, with another README."""
    environment = {**os.environ, "README": str(readme)}
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--show"], check=False, capture_output=True, text=True, env=environment
    )


def test_the_readmes_own_command_is_found():
    run = show(ROOT / "README.md")
    assert run.returncode == 0, run.stderr
    assert "pytest" in run.stdout
    assert ".[test]" in run.stdout


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("# x\n```\nno\n```\n<!-- test command -->\n```bash\na && b\n```\n```\nno\n```\n", "a && b\n"),
        ("<!--test command-->\n\n```\na\nb\n```", "a\nb\n"),
        ("  <!-- test command -->\r\n  ```sh\r\na\r\n  ```\r\n", "a\n"),
    ],
    ids=["plain", "two lines", "windows"],
)
def test_the_block_behind_the_marker_is_taken(tmp_path, text, command):
    (tmp_path / "README.md").write_bytes(text.encode())
    run = show(tmp_path / "README.md")
    assert (run.returncode, run.stdout) == (0, command)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "```\npytest\n```\n",
        "<!-- test command -->\nSome words.\n```\npytest\n```\n",
        "<!-- test command -->\n```\npytest\n",
        "<!-- test command -->\n```\n\n```\n",
    ],
    ids=["empty", "no marker", "words between", "not closed", "empty block"],
)
def test_without_a_command_it_fails(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    run = show(tmp_path / "README.md")
    assert run.returncode == 1
    assert "has no code block right behind the line '<!-- test command -->'" in run.stderr


@pytest.mark.heavy
@pytest.mark.parametrize(("test", "code"), [("assert True", 0), ("assert False", 1)])
def test_it_runs_the_command_in_a_fresh_environment_and_says_how_it_ended(tmp_path, test, code):
    """With a made-up project and made-up pip, python and linters, so that nothing is downloaded."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {test}\n")
    (tmp_path / "README.md").write_text(f"<!-- test command -->\n```\n{sys.executable} -m pytest -q test_it.py\n```\n")
    fake = tmp_path / "fake_python"
    fake.write_text(
        "#!/bin/bash\nmkdir -p $3/bin\nprintf '#!/bin/bash\\n' | tee $3/bin/python > $3/bin/nox\n"
        "printf 'PATH=%s/bin:$PATH\\n' $3 > $3/bin/activate\nchmod +x $3/bin/*\n"
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(fake), "README": "README.md"}
    run = subprocess.run(
        ["bash", str(tmp_path / ".ci" / "run")], check=False, capture_output=True, text=True, env=environment
    )
    assert run.returncode == code, run.stderr
    assert run.stdout.splitlines()[-1].startswith(f"tests: 1 {'failed' if code else 'passed'} in ")
