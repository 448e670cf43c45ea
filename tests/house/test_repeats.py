"""No eight equal lines stand in two rooms or plugins: what two need stands below both."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = 8


def lines_of(text: str) -> list[tuple[int, str]]:
    """Lines that say something, by number: no imports, signatures, comments, docstrings, blanks or brackets alone."""
    passed: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            passed.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, ast.FunctionDef):  # nnU-Net demands some signatures
            passed.update(range(node.lineno, node.body[0].lineno))
    stripped = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(n, s) for n, s in stripped if n not in passed and s.strip("()[]{},:") and not s.startswith("#")]


def room(file: Path, root: Path) -> str:
    """The folder below nnkd that a module stands in, or its plugin."""
    return "/".join(file.relative_to(root).parts[: 2 if file.parent != root / "nnkd" else 1])


def repeated(root: Path) -> list[str]:
    """Runs of equal lines in two rooms, by the places where they begin."""
    places: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for folder in ("nnkd", "plugins", "dataset_conversion"):
        for file in sorted((root / folder).rglob("*.py")):
            lines = lines_of(file.read_text(encoding="utf-8"))
            for start in range(len(lines) - RUN + 1):
                window = lines[start : start + RUN]
                where = f"{file.relative_to(root)}:{window[0][0]}"
                places[tuple(text for _, text in window)].setdefault(room(file, root), where)
    return [" ~ ".join(found.values()) for found in places.values() if len(found) > 1]


@pytest.mark.heavy
def test_no_eight_equal_lines_stand_in_two_rooms():
    assert repeated(ROOT) == []


def test_equal_lines_would_be_seen(tmp_path):
    body = "def f(x):\n" + "".join(f"    x = x + {n}\n" for n in range(RUN))
    for name, text in (("nnkd/votes/a.py", body), ("nnkd/votes/b.py", body), ("plugins/nnkd_one/a.py", "")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert repeated(tmp_path) == []  # one room
    (tmp_path / "plugins/nnkd_one/a.py").write_text(f"import os\n\n{body}")
    assert repeated(tmp_path) == ["nnkd/votes/a.py:2 ~ plugins/nnkd_one/a.py:4"]
