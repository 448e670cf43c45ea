"""Who may import whom. Reads the sources, also inside functions; imports nothing of nnkd."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GROUND_FLOOR = ("errors", "types", "paths", "interfaces", "hookspecs", "registry", "settings", "files")
ASKS_THE_REGISTRY = ("nnkd.training.trainer", "nnkd.nnunet_ext")  # stock nnUNetv2_train runs no command of ours
HEAVY = ("torch", "nnunetv2", "matplotlib", "batchgenerators", "batchgeneratorsv2")
VAGUE = {"utils", "util", "helpers", "helper", "common", "core", "misc"}


@dataclass(frozen=True)
class Import:
    """One import statement.

    Attributes:
        module: What is imported, by its full dotted name.
        line: Where.
        on_load: Whether it runs when the importing module is loaded, not only later or for type checkers.
    """

    module: str
    line: int
    on_load: bool


def sources(root: Path) -> dict[str, Path]:
    """Python files by the dotted name they are imported as."""
    rooms = [(root, "nnkd", ""), (root / "plugins", "*", ""), (root, "dataset_conversion", "nnkd_")]
    found = {}
    for parent, pattern, prefix in rooms:
        for file in sorted(parent.glob(f"{pattern}/**/*.py")):
            parts = file.relative_to(parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[prefix + name] = file
    return found


def imports_of(name: str, file: Path, known: set[str]) -> list[Import]:
    """Imports of one module; `from package import module` counts as the module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = name if file.stem == "__init__" else name.rpartition(".")[0]
    found = []
    for node, on_load in _walk(tree, True):
        for module in _named(node, package, known):
            found.append(Import(module, node.lineno, on_load))
    return found


def _walk(node: ast.AST, on_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types_only(child)
        yield child, on_load
        yield from _walk(child, on_load and not later)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _named(node: ast.AST, package: str, known: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*up, node.module] if node.module else up)
        return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")) and node.args:
        first = node.args[0]  # a side door if it is a name of ours written out
        return [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
    return []


def room(name: str) -> str:
    """Which room a module belongs to."""
    first, _, rest = name.partition(".")
    if first != "nnkd":
        return "dataset_conversion" if first == "nnkd_dataset_conversion" else "plugins"
    second = rest.partition(".")[0]
    if second in ("cli", "steps"):
        return second
    return {"": "face", "registry": "registry", "nnunet_ext": "nnunet_ext"}.get(second, "nouns")


USES_A_COMMANDS_MANNERS = "nnkd.cli.command"  # each conversion module has a main()
MAY_IMPORT = {
    "cli": {"cli", "steps", "registry", "nouns", "face", "dataset_conversion"},
    "steps": {"nouns", "face"},
    "plugins": {"nouns", "face"},
    "dataset_conversion": {"nouns", "face"},
    "nouns": {"nouns", "face"},
    "registry": {"nouns", "face"},
    "face": {"nouns"},
    "nnunet_ext": {"nouns", "registry"},
}


def wrong_directions(root: Path) -> list[str]:
    """Every import that goes where it may not, as a sentence."""
    modules = sources(root)
    ours = {name.partition(".")[0] for name in modules}
    problems = []
    for name, file in modules.items():
        for found in imports_of(name, file, set(modules)):
            if found.module.partition(".")[0] in ours and not _allowed(name, found.module):
                problems.append(f"{name}, line {found.line}, imports {found.module}")
    return problems


def _allowed(name: str, target: str) -> bool:
    here, there = room(name), room(target)
    if there == "registry" and name.startswith(ASKS_THE_REGISTRY):
        return True
    if here == "dataset_conversion" and target == USES_A_COMMANDS_MANNERS:
        return True
    if here == there and here in ("plugins", "dataset_conversion"):
        return name.partition(".")[0] == target.partition(".")[0]  # one's own package only
    return there in MAY_IMPORT[here]


def circles(root: Path) -> list[str]:
    """Import circles among modules of nnkd and its plugins, imports for type checkers left out."""
    modules = sources(root)
    edges = {
        name: {i.module for i in imports_of(name, file, set(modules)) if i.on_load and i.module in modules} - {name}
        for name, file in modules.items()
    }
    done: set[str] = set()
    found = []

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(edges[name]):
                visit(target, [*path, name])
            done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return found


def prints(root: Path) -> list[str]:
    """Calls of print outside the rooms that may."""
    return [
        f"{name}, line {node.lineno}"
        for name, file in sources(root).items()
        if room(name) not in ("cli", "dataset_conversion")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def test_imports_go_one_way():
    assert wrong_directions(ROOT) == []


def test_there_are_no_circles():
    assert circles(ROOT) == []


def test_nobody_prints_but_commands_and_converters():
    assert prints(ROOT) == []


def test_no_module_is_called_by_a_word_that_says_nothing():
    assert [name for name in sources(ROOT) if VAGUE & set(name.split("."))] == []


def test_the_ground_floor_is_light():
    modules = sources(ROOT)
    heavy = [
        f"nnkd.{name} imports {found.module}"
        for name in GROUND_FLOOR
        for found in imports_of(f"nnkd.{name}", modules[f"nnkd.{name}"], set(modules))
        if found.on_load and found.module.partition(".")[0] in HEAVY
    ]
    assert heavy == []


def test_words_import_nothing_but_words():
    modules = sources(ROOT)
    allowed = {"errors": set(), "types": set(), "paths": {"nnkd.errors", "nnkd.types"}}
    for name, words in allowed.items():
        found = imports_of(f"nnkd.{name}", modules[f"nnkd.{name}"], set(modules))
        assert {i.module for i in found if i.module.startswith("nnkd")} <= words


def test_each_step_has_one_public_function():
    for name, file in sources(ROOT).items():
        if room(name) == "steps" and file.stem != "__init__":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            public = [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
            assert len(public) == 1, f"{name} has {public}"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nnkd/steps/a.py", "from nnkd.steps import b"),
        ("nnkd/steps/a.py", "from . import b"),
        ("nnkd/steps/a.py", "from .b import x"),
        ("nnkd/steps/a.py", "def f():\n    import nnkd.plugin.registry"),
        ("nnkd/steps/a.py", "import importlib\nimportlib.import_module('nnkd.cli.x')"),
        ("nnkd/steps/a.py", "import nnkd_one"),
        ("nnkd/noun.py", "from nnkd.steps.b import b"),
        ("nnkd/noun.py", "from nnkd.plugin import registry"),
        ("nnkd/noun.py", "from nnkd_one import x"),
        ("nnkd/registry.py", "import nnkd.cli"),
        ("plugins/nnkd_one/a.py", "import nnkd.plugin.registry"),
        ("plugins/nnkd_one/a.py", "from nnkd.steps import b"),
        ("plugins/nnkd_one/a.py", "import nnkd_two"),
        ("dataset_conversion/a.py", "from nnkd.cli import x"),
    ],
)
def test_a_wrong_direction_is_seen(tmp_path, name, code):
    build(tmp_path)
    assert wrong_directions(tmp_path) == []
    (tmp_path / name).write_text(code)
    assert len(wrong_directions(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nnkd/trainer.py", "from nnkd.plugin import registry"),
        ("nnkd/nnunet_ext/x.py", "def __getattr__(n):\n    from nnkd.plugin import registry"),
        ("nnkd/cli/a.py", "from nnkd.plugin import registry\nfrom nnkd.steps.b import b"),
        ("plugins/nnkd_one/a.py", "from nnkd_one import b\nfrom nnkd import noun\nimport numpy"),
    ],
)
def test_the_right_directions_are_let_through(tmp_path, name, code):
    build(tmp_path)
    (tmp_path / name).write_text(code)
    assert wrong_directions(tmp_path) == []


def test_a_circle_is_seen(tmp_path):
    build(tmp_path)
    (tmp_path / "nnkd/one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import nnkd.two")
    (tmp_path / "nnkd/two.py").write_text("from nnkd import one")
    assert circles(tmp_path) == []
    (tmp_path / "nnkd/one.py").write_text("from nnkd import two")
    assert circles(tmp_path) == ["nnkd.one -> nnkd.two -> nnkd.one"]


def test_a_print_is_seen(tmp_path):
    build(tmp_path)
    (tmp_path / "nnkd/noun.py").write_text("def f():\n    print(1)")
    (tmp_path / "nnkd/cli/a.py").write_text("print(1)")
    assert prints(tmp_path) == ["nnkd.noun, line 2"]


def build(root: Path) -> None:
    """An empty house with all rooms."""
    for name in ("nnkd", "nnkd/steps", "nnkd/cli", "nnkd/nnunet_ext", "plugins/nnkd_one", "plugins/nnkd_two"):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
    (root / "dataset_conversion").mkdir()
    for name in ("nnkd/noun.py", "nnkd/registry.py", "nnkd/steps/a.py", "nnkd/steps/b.py", "dataset_conversion/a.py"):
        (root / name).write_text("")
