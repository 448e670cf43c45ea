"""Installed plugins -> entries by kind and name; classes are imported on first use.

Plugins are taken one by one: a broken, non-conforming or duplicate one is set aside with its reason and never stops
a command that does not need it. The entry-point group is "nnkd"; NNKD_DISABLED_PLUGINS names those to leave out.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import metadata
from types import ModuleType

import pluggy

from nnkd.errors import BrokenPluginError, UnknownPluginError
from nnkd.plugin import hooks
from nnkd.plugin.aggregators import Aggregator
from nnkd.plugin.samplers import Sampler
from nnkd.plugin.schedulers import AuxiliaryScheduler
from nnkd.plugin.teachers import Teacher
from nnkd.types import KINDS, Entry, Kind

GROUP = "nnkd"
MARK = f"{hooks.PROJECT}_impl"  # what pluggy's hookimpl leaves on a function
HOOKS: dict[str, Kind] = {
    "nnkd_register_teachers": "teacher",
    "nnkd_register_aggregators": "aggregator",
    "nnkd_register_students": "student",
    "nnkd_register_samplers": "sampler",
    "nnkd_register_auxiliary_schedulers": "auxiliary_scheduler",
}
INTERFACES: dict[Kind, type] = {
    "teacher": Teacher,
    "aggregator": Aggregator,
    "sampler": Sampler,
    "auxiliary_scheduler": AuxiliaryScheduler,
}
FLAGS: dict[Kind, str] = {
    "teacher": "-t",
    "aggregator": "-a",
    "student": "-tr",
    "sampler": "-s",
    "auxiliary_scheduler": "-as",
}


@dataclass(frozen=True)
class Registered:
    """An entry and the plugin that offers it."""

    kind: Kind
    entry: Entry
    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class SetAside:
    """A plugin, or one of its entries, that is not usable, and why."""

    plugin: str
    distribution: str
    reason: str


class Registry:
    """All entries of all usable plugins.

    Attributes:
        entries: What is installed, first-party plugins first, then by distribution and name.
        set_aside: What is not usable.
        disabled: Plugins that NNKD_DISABLED_PLUGINS leaves out.
    """

    def __init__(self) -> None:
        self.entries: list[Registered] = []
        self.set_aside: list[SetAside] = []
        self.disabled: list[str] = []

    def add(self, name: str, module: ModuleType, distribution: str = "", version: str = "") -> None:
        """Take one plugin's entries; whatever is wrong with it goes to `set_aside`."""
        try:
            offered = list(_offered(name, module))
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a third party's code: any error sets it aside)
            self.set_aside.append(SetAside(name, distribution, _reason(error)))
            return
        for kind, entry in offered:
            problem = _entry_problem(entry) or self._duplicate(kind, entry)
            if problem:
                self.set_aside.append(SetAside(name, distribution, problem))
            else:
                self.entries.append(Registered(kind, entry, name, distribution, version))

    def _duplicate(self, kind: Kind, entry: Entry) -> str:
        for other in self.of_kind(kind):
            if other.entry.name == entry.name:
                return (
                    f"the {_say(kind)} '{entry.name}' is already offered by '{other.plugin}' "
                    f"({other.distribution}), which is kept; disable one of the two with NNKD_DISABLED_PLUGINS"
                )
        return ""

    def of_kind(self, kind: Kind) -> list[Registered]:
        """Entries of one kind."""
        return [r for r in self.entries if r.kind == kind]

    def names(self, kind: Kind) -> list[str]:
        """Names of one kind, in order."""
        return [r.entry.name for r in self.of_kind(kind)]

    def find(self, kind: Kind, name: str) -> Registered:
        """The entry of that kind and name.

        Raises:
            UnknownPluginError: If there is none; the message names those that exist and the closest one.
        """
        for registered in self.of_kind(kind):
            if registered.entry.name == name:
                return registered
        names = self.names(kind)
        close = get_close_matches(name, names, n=1)
        there = f"There are: {', '.join(names)}." if names else f"No plugin with {_say(kind)}s is installed."
        hint = f" Did you mean '{close[0]}'?" if close else ""
        aside = f" Set aside (see nnKD_plugins): {', '.join(sorted({a.plugin for a in self.set_aside}))}."
        raise UnknownPluginError(f"There is no {_say(kind)} '{name}'. {there}{hint}{aside if self.set_aside else ''}")

    def load(self, kind: Kind, name: str) -> type:
        """Import the class of an entry and check it against its interface.

        Raises:
            UnknownPluginError: If there is no such entry.
            BrokenPluginError: If importing or checking it failed.
        """
        registered = self.find(kind, name)
        return load_class(kind, registered.entry, registered.distribution)


def load_class(kind: Kind, entry: Entry, distribution: str = "") -> type:
    """Import an entry's class and check it against the interface of its kind.

    Raises:
        BrokenPluginError: If that fails.
    """
    module_name, _, class_name = entry.load.partition(":")
    what = f"The {_say(kind)} '{entry.name}'" + (f" of {distribution}" if distribution else "")
    try:
        target = getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # missing extras, broken third-party code
        raise BrokenPluginError(
            f"{what} could not be imported: {_reason(error)}. Install what it needs, or leave it out."
        ) from error
    if not isinstance(target, type):
        raise BrokenPluginError(f"{what} ({entry.load}) is no class.")
    problem = _class_problem(kind, entry, target)
    if problem:
        raise BrokenPluginError(f"{what} ({entry.load}) {problem}.")
    return target


@lru_cache(maxsize=1)
def installed() -> Registry:
    """The registry of what is installed in this environment, read once per process."""
    registry = Registry()
    disabled = {name.strip() for name in os.environ.get("NNKD_DISABLED_PLUGINS", "").split(",") if name.strip()}
    for point in _entry_points():
        distribution = point.dist.name if point.dist else ""
        if {point.name, distribution} & disabled:
            registry.disabled.append(point.name)
            continue
        version = point.dist.version if point.dist else ""
        try:
            module = point.load()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a broken plugin must not stop the others)
            registry.set_aside.append(SetAside(point.name, distribution, _reason(error)))
            continue
        registry.add(point.name, module, distribution, version)
    return registry


def _entry_points() -> list[metadata.EntryPoint]:
    unique = {(p.name, p.value, p.dist.name if p.dist else ""): p for p in metadata.entry_points(group=GROUP)}
    return [unique[key] for key in sorted(unique, key=lambda key: (key[2] != "nnkd", key[2], key[0]))]


def _offered(name: str, module: ModuleType) -> Iterable[tuple[Kind, Entry]]:
    manager = pluggy.PluginManager(hooks.PROJECT)
    manager.add_hookspecs(hooks)
    manager.register(module, name=name)
    manager.check_pending()  # a misspelt hook is an error, not silence
    unmarked = [hook for hook in HOOKS if hasattr(module, hook) and not hasattr(getattr(module, hook), MARK)]
    if unmarked:
        raise BrokenPluginError(f"{', '.join(unmarked)} lacks the decorator @nnkd.hookimpl")
    for hook, kind in HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            for entry in implementation.function():
                yield kind, entry


def _entry_problem(entry: object) -> str:
    if not isinstance(entry, Entry):
        return f"a hook returned {entry!r}, but nnkd.Entry objects are expected"
    texts = (entry.name, entry.load, entry.summary, entry.source, entry.licence, entry.weights_licence)
    if not all(isinstance(text, str) for text in texts):
        return f"the entry {entry.name!r} holds something else than strings: {entry!r}"
    if not re.fullmatch(r"\w[\w-]*", entry.name):  # teachers' names become folders
        return f"the name {entry.name!r} is not made of letters, digits, '_' and '-' alone"
    module, colon, name = entry.load.partition(":")
    if not (module and colon and name):
        return f"the entry '{entry.name}' has load='{entry.load}', but 'package.module:Class' is expected"
    return ""


def _class_problem(kind: Kind, entry: Entry, target: type) -> str:
    if kind == "student":
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        if not issubclass(target, nnUNetTrainer):
            return "is not derived from nnUNetTrainer"
        own = target.__name__
        if own != entry.name:
            return f"is the class {own}; nnU-Net wants both names equal"
    elif not issubclass(target, INTERFACES[kind]):
        return f"is not derived from nnkd.{INTERFACES[kind].__name__}"
    missing = sorted(getattr(target, "__abstractmethods__", ()))
    return f"does not implement {', '.join(missing)}" if missing else ""


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _say(kind: Kind) -> str:
    return kind.replace("_", " ")


__all__ = ["FLAGS", "GROUP", "HOOKS", "KINDS", "Registered", "Registry", "SetAside", "installed", "load_class"]
