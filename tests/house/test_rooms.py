"""What the import contract of pyproject.toml cannot say, and that it is kept. Imports inside functions and for type
checkers count."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason='needs grimp: pip install "nnkd[test]"')
ROOT = Path(__file__).parents[2]
PLUGINS = sorted(folder.parent.name for folder in (ROOT / "plugins").glob("*/__init__.py"))
OURS = ("nnkd", *PLUGINS, "nnkd_dataset_conversion")
MOST_MODULES = 16
VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "misc"}
CLOSED = ("nnkd.steps", "nnkd.cli", "nnkd.plugin.registry")  # to plugins
OF_CONVERSIONS = ("nnkd.cli.command",)  # each conversion has a main()


@cache
def sources(root: Path = ROOT) -> dict[str, ast.Module]:
    """Syntax trees by the dotted name that a module is imported as."""
    found = {}
    for parent, pattern, prefix in (
        (root, "nnkd", ""),
        (root / "plugins", "*", ""),
        (root, "dataset_conversion", "nnkd_"),
    ):
        for file in sorted(parent.glob(f"{pattern}/**/*.py")):
            parts = file.relative_to(parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[prefix + name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imports(modules: dict[str, ast.Module], known: Collection[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(who imports, what, which names of it); `from package import module` counts as the module if that is known."""
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((name, alias.name, []) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name} imports from '.', which hides where a module stands"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield (name, inner, []) if inner in known else (name, node.module or "", [alias.name])
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                written = [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
                yield from ((name, str(module), []) for module in written)  # a side door


def room(module: str) -> str:
    """The room a module stands in: its package, and in nnkd the first folder."""
    return ".".join(module.split(".")[: 2 if module.startswith("nnkd.") else 1])


def is_in(module: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or in one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


def wrong_doors(modules: dict[str, ast.Module]) -> list[str]:
    """Imports that plugins and converters may not have, and those of another room's underscored things."""
    found = []
    for name, target, names in imports(modules, sources()):
        if not is_in(target, OURS):
            continue
        own = name.split(".")[0] == target.split(".")[0]
        closed = is_in(name, (*PLUGINS, "nnkd_one", "nnkd_two")) and (
            is_in(target, CLOSED) or (not own and not is_in(target, ("nnkd",)))
        )
        closed |= is_in(name, ("nnkd_dataset_conversion",)) and (
            is_in(target, CLOSED) and not is_in(target, OF_CONVERSIONS)
        )
        private = [part for part in (*target.split(".")[1:], *names) if part.startswith("_") and part[1] != "_"]
        if closed or (private and room(name) != room(target)):
            found.append(f"{name} imports {target} {' '.join(names)}".strip())
    return found


def test_the_import_contract_is_kept():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    checked = subprocess.run([*command, "--no-cache"], check=False, capture_output=True, text=True, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


def test_there_are_no_circles():
    graph = grimp.build_graph(*OURS, cache_dir=None)
    inside = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.heavy
def test_plugins_and_rooms_keep_to_the_doors():
    assert wrong_doors(sources()) == []


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nnkd_one.a", "from nnkd.steps.train import train"),
        ("nnkd_one.a", "def f():\n    from nnkd.plugin import registry"),
        ("nnkd_one.a", "import nnkd.cli.command"),
        ("nnkd_one.a", "from nnkd_basic import staple"),
        ("nnkd_one.a", "import importlib\nimportlib.import_module('nnkd.cli.x')"),
        ("nnkd_one.a", "from nnkd.data.phantoms import _body"),
        ("nnkd_dataset_conversion.a", "from nnkd.cli.train import main"),
        ("nnkd.votes.a", "from nnkd.data.groups import _hidden"),
        ("nnkd.votes.a", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nnkd.plugin._toys"),
    ],
)
def test_a_wrong_door_is_seen(name, code):
    assert len(wrong_doors({name: ast.parse(code)})) == 1


def test_rooms_are_small_and_have_a_door_plate():
    for init in [*ROOT.glob("nnkd/**/__init__.py"), *ROOT.glob("plugins/**/__init__.py")]:
        here = init.parent
        modules = [file for file in here.glob("*.py") if file.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES or here == ROOT / "nnkd" / "cli", here
        tree = ast.parse(init.read_text(encoding="utf-8"))
        if here != ROOT / "nnkd" and here.is_relative_to(ROOT / "nnkd"):  # a plate and no import: it costs nothing
            assert len(tree.body) == 1, init
            plate = ast.get_docstring(tree) or ""
            assert 3 <= len(plate.splitlines()) <= 8, init
            unsaid = [file.stem for file in modules if file.stem[0] != "_" and f"`{file.stem}`" not in plate]
            assert unsaid == [] or here.name in ("cli", "steps", "nnunet_ext"), (here, unsaid)


@pytest.mark.heavy
def test_nobody_prints_but_commands_and_converters():
    prints = [
        f"{name}, line {node.lineno}"
        for name, tree in sources().items()
        if not is_in(name, ("nnkd.cli", "nnkd_dataset_conversion"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


@pytest.mark.heavy
def test_no_module_is_called_by_a_word_that_says_nothing():
    assert [name for name in sources() if VAGUE & set(name.split("."))] == []


@pytest.mark.heavy
def test_each_step_has_one_public_function():
    for name, tree in sources().items():
        if is_in(name, ("nnkd.steps",)) and name != "nnkd.steps":
            public = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
            assert len(public) == 1, f"{name} has {public}"
