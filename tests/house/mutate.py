"""Do the tests notice a wrong line? Small faults are put into chosen modules, one at a time, and their tests run.

    python tests/house/mutate.py                    puts the faults of mutations.json in again: each must be noticed
    python tests/house/mutate.py --draw 40          draws as many that are noticed, and writes mutations.json
    python tests/house/mutate.py --draw 40 --seed 7

A fault is one comparison, operator, number or boolean of a function exchanged for another. No file is changed: a
finder in a forked process hands out the module with the fault (so POSIX alone), and processes that tests start see
none. Of faults that no test notices, some make no difference at all; --draw prints them and does not keep them.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("mutations.json")
LIMIT_S = 300  # a fault that makes tests hang is noticed
TARGETS = {  # what is chosen: a module, and the tests that should notice
    "nnkd.evaluation.metrics": ("tests/evaluation/test_metrics.py",),
    "nnkd.evaluation.surfaces": ("tests/evaluation/test_metrics.py",),
    "nnkd.votes.bits": ("tests/votes/test_bits.py", "tests/votes/test_consensus.py", "tests/votes/test_ballots.py"),
    "nnkd.votes.ballots": ("tests/votes/test_ballots.py", "tests/votes/test_consensus.py"),
    "nnkd_fairness.balanced": ("tests/plugins/test_fairness_samplers.py",),
    "nnkd_fairness.strata": ("tests/plugins/test_fairness_samplers.py", "tests/plugins/test_fairness_plan.py"),
    "nnkd_ucb.ucb": ("tests/plugins/test_ucb.py",),
    "nnkd_ucb.arms": ("tests/plugins/test_ucb.py", "tests/plugins/test_ucb_rivals.py"),
    "nnkd.votes.consensus": ("tests/votes/test_consensus.py", "tests/plugins/test_aggregators.py"),
    "nnkd_basic.staple": ("tests/plugins/test_staple.py",),
    "nnkd_basic.weighted": ("tests/plugins/test_weighted.py",),
    "nnkd.data.reading.geometry": (
        "tests/data/reading/test_geometry.py",
        "tests/data/reading/test_orientations.py",
        "tests/data/test_dataset.py",
    ),
    "nnkd.data.recipes": ("tests/data/test_recipes.py",),
    "nnkd.weights.checkpoints": ("tests/weights/test_pretrained.py", "tests/plugins/test_sam.py"),
    "nnkd.weights.pretrained": ("tests/weights/test_pretrained.py",),
}
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.Pow: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        module: Dotted name.
        function: Qualified name of the function it is in.
        number: Which of the function's possible faults, from 0.
        before, after: The expression, as Python writes it.
    """

    module: str
    function: str
    number: int
    before: str
    after: str


class Faults(ast.NodeTransformer):
    """All faults that a function can have; puts in the one whose number is `chosen`."""

    def __init__(self, chosen: int | None = None):
        self.chosen, self.found = chosen, []

    def _fault(self, node: ast.expr, other: ast.expr) -> ast.expr:
        number = len(self.found)
        self.found.append((ast.unparse(node), ast.unparse(other)))
        return ast.copy_location(other, node) if number == self.chosen else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Bodies alone: no annotation, decorator or default; the docstring has no number."""
        node.body = [self.visit(one) for one in node.body]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        """The value alone."""
        node.value = self.visit(node.value) if node.value else None
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        """What an error says is no behaviour that is meant here."""
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """< for <=, == for !=, in for not in."""
        self.generic_visit(node)
        first = COMPARED[type(node.ops[0])]()
        return self._fault(node, ast.Compare(node.left, [first, *node.ops[1:]], node.comparators))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """+ for -, * for /, & for |."""
        self.generic_visit(node)
        other = COMPUTED.get(type(node.op))
        return self._fault(node, ast.BinOp(node.left, other(), node.right)) if other else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """and for or."""
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return self._fault(node, ast.BoolOp(other, node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """Without not, - or ~."""
        self.generic_visit(node)
        return self._fault(node, node.operand)

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """True for False, n + 1 for n."""
        if isinstance(node.value, bool):
            return self._fault(node, ast.Constant(not node.value))
        if isinstance(node.value, int | float):
            return self._fault(node, ast.Constant(node.value + 1))
        return node


def source(module: str) -> Path:
    """A module's file."""
    parts = module.split(".")
    return ROOT.joinpath("plugins" if parts[0] != "nnkd" else "", *parts).with_suffix(".py")


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods with their qualified names; inner functions belong to the outer one."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{one.name}", one) for one in node.body if isinstance(one, ast.FunctionDef))


def possible(module: str) -> list[Fault]:
    """All faults of a module."""
    found = []
    for name, node in functions(ast.parse(source(module).read_text(encoding="utf-8"))):
        faults = Faults()
        faults.visit(node)
        found += [Fault(module, name, i, *texts) for i, texts in enumerate(faults.found)]
    return found


def with_fault(fault: Fault) -> ast.Module | None:
    """The module's tree with the fault; None where the line has changed since the fault was drawn."""
    tree = ast.parse(source(fault.module).read_text(encoding="utf-8"))
    for name, node in functions(tree):
        faults = Faults(fault.number)
        if name == fault.function:
            faults.visit(node)
            same = len(faults.found) > fault.number and faults.found[fault.number] == (fault.before, fault.after)
            return ast.fix_missing_locations(tree) if same else None
    return None


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Hands out the module with the fault."""

    def __init__(self, module: str, tree: ast.Module):
        self.module, self.tree = module, tree

    def find_spec(self, name, path=None, target=None):
        """Of that module alone."""
        return importlib.util.spec_from_file_location(name, source(name), loader=self) if name == self.module else None

    def exec_module(self, module):
        """Run the tree."""
        exec(compile(self.tree, str(source(self.module)), "exec"), module.__dict__)


def fails(files: Sequence[str], tests: Path, finder: Finder | None = None) -> bool:
    """Whether a test of the files fails, in a forked process."""
    child = os.fork()
    if not child:
        import pytest

        signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
        signal.alarm(LIMIT_S)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path[:0] = [finder] if finder else []
        os.chdir(tests)
        os._exit(pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", *files]))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1):
        raise SystemExit(f"pytest ended with {code}: it ran no test of {', '.join(files)}")
    return code == 1


def import_what_tests_need() -> None:
    """Once, before processes are forked; nothing of nnkd, whose modules shall have faults."""
    for name in ("torch", "pandas", "SimpleITK", "scipy.ndimage", "scipy.spatial", "hypothesis", "pydantic", "pytest",
                 "skimage.measure", "matplotlib", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"):  # fmt: skip
        importlib.import_module(name)


def draw(number: int, seed: int, tests: Path) -> list[Fault]:
    """Faults that are noticed, of all modules in turn."""
    rng = random.Random(seed)
    waiting = {module: possible(module) for module in TARGETS}
    for faults in waiting.values():
        rng.shuffle(faults)
    kept: list[Fault] = []
    while len(kept) < number and any(waiting.values()):
        for faults in waiting.values():
            while faults and len(kept) < number:
                fault = faults.pop()
                noticed = told(fault, tests)
                if noticed:
                    kept.append(fault)
                    break
    return kept


def told(fault: Fault, tests: Path) -> bool:
    """Whether it is noticed; says so."""
    tree = with_fault(fault)
    if tree is None:
        print(f"CHANGED  {fault.module}.{fault.function}: '{fault.before}' is not there any more", flush=True)
        return False
    begun = time.monotonic()
    noticed = fails(TARGETS[fault.module], tests, Finder(fault.module, tree))
    word = "noticed" if noticed else "MISSED "
    where = f"{fault.module}.{fault.function}"
    print(f"{word}  {where}: {fault.before} -> {fault.after} ({time.monotonic() - begun:.0f} s)", flush=True)
    return noticed


def main(argv: Sequence[str] | None = None) -> int:
    """Put faults in; the exit code says whether all were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", type=int, metavar="N", help="draw N faults that are noticed, and keep them")
    parser.add_argument("--seed", type=int, default=19)
    parser.add_argument("--tests", type=Path, default=ROOT, help="a checkout whose tests shall notice (default: this)")
    options = parser.parse_args(argv)
    import_what_tests_need()
    for files in sorted(set(TARGETS.values())):
        if fails(files, options.tests):
            print(f"A test of {', '.join(files)} fails without any fault: mend it first.")
            return 1
    if options.draw:
        kept = draw(options.draw, options.seed, options.tests)
        RECORD.write_text(json.dumps([asdict(fault) for fault in kept], indent=1) + "\n", encoding="utf-8")
        print(f"{len(kept)} faults are in {RECORD.name}")
        return 0 if len(kept) == options.draw else 1
    faults = [Fault(**entry) for entry in json.loads(RECORD.read_text(encoding="utf-8"))]
    noticed = sum(told(fault, options.tests) for fault in faults)
    print(f"{noticed} of {len(faults)} faults are noticed")
    return 0 if noticed == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
