"""Tests of nnkd.plugin.registry."""

from __future__ import annotations

import sys
import textwrap
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from nnkd import Aggregator, Entry, hookimpl
from nnkd.errors import BrokenPluginError, UnknownPluginError
from nnkd.plugin import registry
from nnkd.plugin.registry import Registry


class Mean(Aggregator):
    """Well-formed."""

    def table(self, counts, answers):
        """Not called here."""


class Unfinished(Aggregator):
    """Lacks `table`."""


def entry(name="one", load=f"{__name__}:Mean", **more) -> Entry:
    return Entry(name, load, "a summary", **more)


def plugin(*entries, hook="nnkd_register_aggregators", mark=hookimpl) -> ModuleType:
    """A plugin module that offers entries through one hook."""
    module = ModuleType("made_up")
    setattr(module, hook, mark(lambda: list(entries)))
    return module


def test_entries_are_found_by_kind_and_name():
    found = Registry()
    found.add("made_up", plugin(entry("one"), entry("two")), "made-up", "1.2")
    assert found.names("aggregator") == ["one", "two"]
    assert found.names("teacher") == []
    assert found.find("aggregator", "two").distribution == "made-up"
    assert found.load("aggregator", "one") is Mean
    assert not found.set_aside


def test_an_unknown_name_is_answered_with_those_that_exist_and_the_closest():
    found = Registry()
    found.add("made_up", plugin(entry("majority"), entry("mean")))
    with pytest.raises(UnknownPluginError, match=r"There are: majority, mean\. Did you mean 'majority'\?"):
        found.find("aggregator", "majorty")
    with pytest.raises(UnknownPluginError, match="No plugin with samplers is installed"):
        found.find("sampler", "mean")


def test_what_is_set_aside_is_mentioned_with_unknown_names():
    found = Registry()
    found.add("broken", plugin(entry(), hook="nnkd_register_agregators"))
    with pytest.raises(UnknownPluginError, match=r"Set aside \(see nnKD_plugins\): broken"):
        found.find("aggregator", "one")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (plugin(entry(), hook="nnkd_register_agregators"), "nnkd_register_agregators"),
        (plugin(entry(), mark=lambda function: function), "lacks the decorator @nnkd.hookimpl"),
        (plugin("mean"), "'mean', but nnkd.Entry objects are expected"),
        (plugin(entry(load="made_up.Mean")), "'package.module:Class' is expected"),
        (plugin(entry(load=Mean)), "something else than strings"),
        (plugin(entry(name="a name")), "not made of letters"),
        (plugin(entry(name="")), "not made of letters"),
    ],
    ids=["misspelt", "unmarked", "type", "load", "class", "name", "empty"],
)
def test_a_malformed_plugin_is_set_aside_with_its_reason(module, reason):
    found = Registry()
    found.add("bad", module, "bad-plugin")
    found.add("good", plugin(entry("good")))
    assert found.names("aggregator") == ["good"]
    assert [aside.plugin for aside in found.set_aside] == ["bad"]
    assert reason in found.set_aside[0].reason


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(4)])
def test_a_hook_that_raises_is_set_aside(error):
    def fail():
        raise error

    module = ModuleType("made_up")
    module.nnkd_register_teachers = hookimpl(fail)
    found = Registry()
    found.add("bad", module)
    assert type(error).__name__ in found.set_aside[0].reason


def test_one_bad_entry_leaves_the_others_of_its_plugin():
    found = Registry()
    found.add("mixed", plugin(entry("good"), entry("bad", load="nowhere")))
    assert found.names("aggregator") == ["good"]
    assert len(found.set_aside) == 1


def test_of_two_entries_with_one_name_the_first_is_kept():
    found = Registry()
    found.add("first", plugin(entry("mean")), "first-plugin")
    found.add("second", plugin(entry("mean", load="elsewhere:Mean")), "second-plugin")
    assert found.find("aggregator", "mean").plugin == "first"
    assert "already offered by 'first' (first-plugin)" in found.set_aside[0].reason


def test_kinds_have_names_of_their_own():
    found = Registry()
    found.add("first", plugin(entry("mean")))
    found.add("second", plugin(entry("mean"), hook="nnkd_register_samplers"))
    assert found.names("sampler") == ["mean"]
    assert not found.set_aside


@pytest.mark.parametrize(
    ("kind", "load", "reason"),
    [
        ("aggregator", "no.such.module:Mean", "No module named 'no'"),
        ("aggregator", f"{__name__}:Absent", "Absent"),
        ("aggregator", f"{__name__}:entry", "is no class"),
        ("aggregator", f"{__name__}:Unfinished", "does not implement table"),
        ("teacher", f"{__name__}:Mean", "is not derived from nnkd.Teacher"),
    ],
)
def test_a_class_that_does_not_conform_is_refused_on_first_use(kind, load, reason):
    with pytest.raises(BrokenPluginError, match=reason):
        registry.load_class(kind, entry(load=load))


def test_a_student_must_be_a_trainer_of_the_same_name():
    trainer = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer:nnUNetTrainer"
    assert registry.load_class("student", entry("nnUNetTrainer", trainer)).__name__ == "nnUNetTrainer"
    with pytest.raises(BrokenPluginError, match="both names equal"):
        registry.load_class("student", entry("MyTrainer", trainer))
    with pytest.raises(BrokenPluginError, match="not derived from nnUNetTrainer"):
        registry.load_class("student", entry("Mean"))


def install(folder: Path, name: str, code: str) -> None:
    """A distribution on disk: one module, one entry point."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[nnkd]\n{name}_plugin = {name}\n")


GOOD = """
    from nnkd import Entry, hookimpl
    @hookimpl
    def nnkd_register_samplers():
        return [Entry("good", "good:Good", "")]
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A folder of distributions; the registry is read anew. First-party plugins stay."""
    monkeypatch.syspath_prepend(tmp_path)
    registry.installed.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    registry.installed.cache_clear()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


@pytest.mark.parametrize("code", ["import no_such_thing", "def (", "import sys; sys.exit(3)", "raise RuntimeError"])
def test_a_plugin_that_cannot_be_imported_stops_nobody(fresh, code):
    install(fresh, "good", GOOD)
    install(fresh, "broken", code)
    found = registry.installed()
    assert found.find("sampler", "good").version == "1.0"
    assert [(aside.plugin, aside.distribution) for aside in found.set_aside] == [("broken_plugin", "broken")]


@pytest.mark.parametrize("named", ["broken_plugin", " x, broken ,"], ids=["plugin", "distribution"])
def test_disabled_plugins_are_not_even_imported(fresh, monkeypatch, named):
    install(fresh, "good", GOOD)
    install(fresh, "broken", "raise RuntimeError")
    monkeypatch.setenv("NNKD_DISABLED_PLUGINS", named)
    found = registry.installed()
    assert found.disabled == ["broken_plugin"]
    assert "good" in found.names("sampler")
    assert not found.set_aside


def test_first_party_plugins_come_first_and_once(fresh):
    install(fresh, "aaa", GOOD.replace("good", "aaa"))
    plugins = [r.distribution for r in registry.installed().entries]
    assert plugins[0] == "nnkd"
    assert plugins[-1] == "aaa"
    names = [(r.kind, r.entry.name) for r in registry.installed().entries]
    assert len(names) == len(set(names))


def test_every_first_party_entry_point_is_listed():
    registry.installed.cache_clear()
    found = registry.installed()
    ours = {p.name for p in metadata.entry_points(group="nnkd") if p.dist and p.dist.name == "nnkd"}
    assert ours
    assert ours == {r.plugin for r in found.entries if r.distribution == "nnkd"}
    assert all(r.entry.licence and r.entry.summary for r in found.entries if r.distribution == "nnkd")
