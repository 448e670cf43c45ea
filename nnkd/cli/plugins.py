"""nnKD_plugins: what is installed, what is broken and why; `validate PACKAGE` checks a plugin for its author."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.errors import BrokenPluginError, UnknownPluginError
from nnkd.plugin import registry
from nnkd.plugin.registry import Registered, Registry
from nnkd.types import KINDS

if TYPE_CHECKING:
    from nnkd.plugin.validation import Candidate, Check

COLUMNS = ("name", "distribution", "version", "licence", "weights", "source")
HEAVY = ("torch", "nnunetv2", "tensorflow", "monai")  # seconds, for every listing


def main(argv: Sequence[str] | None = None) -> int:
    """List or validate plugins and return the exit code."""
    parser = command.parser(
        "List what is installed: teachers, aggregators, students, samplers and auxiliary schedulers, each with its "
        "distribution, version, licences and source, and what is broken and why. Nothing heavy is imported. The "
        "environment variable NNKD_DISABLED_PLUGINS (a,b) names plugins to leave out.",
        "nnKD_plugins --json\n         nnKD_plugins validate nnkd_example",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verbs = parser.add_subparsers(dest="verb", metavar="validate")
    validate = verbs.add_parser(
        "validate",
        help="check a plugin for its author: imports, hook names, interfaces, options, licence, smoke calls",
        description="Check a plugin: one line per check; exit code 1 if one failed.",
    )
    validate.add_argument("package", metavar="PACKAGE", help="an importable module, or the name of a distribution")
    validate.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of lines")
    return command.run(_act, parser.parse_args(argv))


def _act(arguments: argparse.Namespace) -> int:
    if arguments.verb == "validate":
        return _validate(arguments.package, arguments.json)
    found = registry.installed()
    if arguments.json:
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_table(found)))
    return command.DONE


def _as_json(found: Registry) -> dict[str, object]:
    """The registry as plain lists, by kind."""
    return {
        "plugins": {
            kind: [
                {
                    **dataclasses.asdict(r.entry),
                    "plugin": r.plugin,
                    "distribution": r.distribution,
                    "version": r.version,
                }
                for r in found.of_kind(kind)
            ]
            for kind in KINDS
        },
        "set_aside": [dataclasses.asdict(aside) for aside in found.set_aside],
        "disabled": found.disabled,
    }


def _table(found: Registry) -> Iterable[str]:
    """Lines of text: a table of all kinds with common column widths, then what is not usable."""
    rows = {kind: [_row(r) for r in found.of_kind(kind)] for kind in KINDS}
    everything = [COLUMNS, *(row for of_kind in rows.values() for row in of_kind)]
    widths = [max(len(row[i]) for row in everything) for i in range(len(COLUMNS))]
    for kind in KINDS:
        if rows[kind]:
            yield f"{kind.replace('_', ' ')}s ({registry.FLAGS[kind]})"
            yield "  " + _line(COLUMNS, widths)
            for row, registered in zip(rows[kind], found.of_kind(kind), strict=True):
                yield "  " + _line(row, widths)
                yield f"      {registered.entry.summary}"
            yield ""
    if found.set_aside:
        yield "broken, set aside"
        for aside in found.set_aside:
            yield f"  {aside.plugin} ({aside.distribution}): {aside.reason}"
    if found.disabled:
        yield f"disabled by NNKD_DISABLED_PLUGINS: {', '.join(found.disabled)}"


def _row(registered: Registered) -> tuple[str, ...]:
    entry = registered.entry
    texts = (
        entry.name,
        registered.distribution,
        registered.version,
        entry.licence,
        entry.weights_licence,
        entry.source,
    )
    return tuple(text or "-" for text in texts)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _validate(package: str, as_json: bool) -> int:
    """Collect what the registry says about a package, then let the step check it."""
    before = set(sys.modules)
    modules, found = _modules(package)
    heavy = sorted({name for name in HEAVY if name in sys.modules} - before)

    from nnkd.steps.validate_plugin import validate_plugin  # numpy: not for the listing

    checks, candidates = _checks_of_import(found, heavy), []
    for name, module in modules.items():
        more_checks, more_candidates = _look_into(name, module)
        checks += more_checks
        candidates += more_candidates
    report = validate_plugin(package, checks, candidates)
    if as_json:
        print(json.dumps(report.data, indent=2, ensure_ascii=False))
    else:
        command.show(report)
    return command.ERROR if report.data["failed"] else command.DONE


def _modules(package: str) -> tuple[dict[str, ModuleType], list[tuple[str, str]]]:
    """Import a package's plugin modules.

    Returns:
        Modules by plugin name, and (module, why it could not be imported or "") in order.

    Raises:
        UnknownPluginError: If there is neither such a distribution nor such a module.
    """
    modules, found = {}, []
    for name, module in _plugin_points(package):
        try:
            modules[name] = importlib.import_module(module)
            found.append((module, ""))
        except ModuleNotFoundError as error:
            if error.name == package:
                raise UnknownPluginError(
                    f"'{package}' is neither an installed distribution with a plugin nor an importable module. "
                    f"Install it (pip install -e .) or check the name."
                ) from None
            found.append((module, f"{type(error).__name__}: {error}"))
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the plugin's own code)
            found.append((module, f"{type(error).__name__}: {error}"))
    return modules, found


def _plugin_points(package: str) -> list[tuple[str, str]]:
    """(plugin name, module) of a distribution, or of one module."""
    with_points = {}
    for point in metadata.entry_points(group=registry.GROUP):
        if point.module == package or (point.dist and _canonical(point.dist.name) == _canonical(package)):
            with_points[point.name] = point.module
    exact = {name: module for name, module in with_points.items() if module == package}
    return list((exact or with_points or {package: package}).items())


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _checks_of_import(found: Sequence[tuple[str, str]], heavy: Sequence[str]) -> list[Check]:
    from nnkd.plugin.validation import FAILED, NOT_TRIED, OK, Check

    checks = [Check(module, "imports", FAILED if problem else OK, problem) for module, problem in found]
    for module in [module for module, problem in found if not problem]:
        points = [p for p in metadata.entry_points(group=registry.GROUP) if p.module == module]
        said = f"'{points[0].name}' in group nnkd" if points else "none: nnKD commands find it once it is installed"
        checks.append(Check(module, "entry point", OK if points else NOT_TRIED, said))
        detail = f"imports {', '.join(heavy)}, which every listing would wait for" if heavy else ""
        checks.append(Check(module, "light", FAILED if heavy else OK, detail))
    return checks


def _look_into(name: str, module: ModuleType) -> tuple[list[Check], list[Candidate]]:
    """A module's hooks and entries, each with its class."""
    from nnkd.plugin.validation import FAILED, OK, Candidate, Check

    own = Registry()
    own.add(name, module)
    checks = [Check(module.__name__, "hooks and entries", FAILED, aside.reason) for aside in own.set_aside]
    if own.entries:
        checks.append(Check(module.__name__, "hooks and entries", OK, f"{len(own.entries)} offered"))
    elif not checks:
        checks.append(Check(module.__name__, "hooks and entries", FAILED, "no hook offers an entry"))
    candidates = []
    for registered in own.entries:
        problem, target = "", None
        try:
            target = registry.load_class(registered.kind, registered.entry)
        except BrokenPluginError as error:
            problem = str(error)
        candidates.append(Candidate(registered.kind, registered.entry, target, problem, _taken(registered)))
    return checks, candidates


def _taken(registered: Registered) -> str:
    """Who else offers an entry of that kind and name; empty if nobody does."""
    everywhere = [r for r in registry.installed().of_kind(registered.kind) if r.entry.name == registered.entry.name]
    others = [r for r in everywhere if r.entry.load != registered.entry.load]
    return f"{others[0].plugin} ({others[0].distribution})" if others else ""
