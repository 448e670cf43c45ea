"""Nobody in nnkd/ probes what a trainer's class can do: that is `nnkd.plugin.students`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBES = {"hasattr", "getattr", "setattr", "vars", "dir"}
TRAINERS = re.compile(r"trainer|student", re.IGNORECASE)
NAMES = re.compile(r"nnUNetTrainer\w+")


def probes(tree: ast.Module) -> list[str]:
    """Probes of trainers, their AttributeErrors that are caught, and names of theirs that are compared."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PROBES and node.args:
            wrong = TRAINERS.search(ast.unparse(node.args[0]))
        elif isinstance(node, ast.Attribute) and node.attr == "__dict__":
            wrong = TRAINERS.search(ast.unparse(node.value))
        elif isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type)
            wrong = "AttributeError" in caught and TRAINERS.search(" ".join(map(ast.unparse, node.body)))
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            written = [side.value for side in sides if isinstance(side, ast.Constant) and isinstance(side.value, str)]
            wrong = any(NAMES.fullmatch(name) for name in written)
        else:
            continue
        found += [f"line {node.lineno}: {ast.unparse(node)}"] if wrong else []
    return found


@pytest.mark.heavy
def test_trainers_are_asked_through_their_interface():
    files = sorted((ROOT / "nnkd").glob("**/*.py"))
    found = {str(file): seen for file in files if (seen := probes(ast.parse(file.read_text(encoding="utf-8"))))}
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        "hasattr(request.trainer, 'write_plans')",
        "getattr(trainer, 'one_gpu', False)",
        "'x' in trainer.__dict__",
        "vars(Student)",
        "try:\n    trainer.plan_values({})\nexcept AttributeError:\n    pass",
        "if kind.__name__ == 'nnUNetTrainerPUNet':\n    pass",
    ],
)
def test_a_probe_is_seen(code):
    assert len(probes(ast.parse(code))) == 1


def test_what_is_no_probe():
    code = "getattr(network, '_orig_mod', network); issubclass(trainer, Student); trainer.one_gpu; name == TRAINER"
    assert probes(ast.parse(code)) == []
