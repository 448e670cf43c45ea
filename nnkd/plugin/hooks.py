"""The five hooks a plugin may implement. Each takes no argument and returns entries (plain strings)."""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from nnkd.types import Entry

PROJECT = "nnkd"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def nnkd_register_teachers() -> Iterable[Entry]:
    """Classes derived from `nnkd.Teacher`."""
    return ()


@hookspec
def nnkd_register_aggregators() -> Iterable[Entry]:
    """Classes derived from `nnkd.Aggregator`."""
    return ()


@hookspec
def nnkd_register_students() -> Iterable[Entry]:
    """nnU-Net trainer classes; the entry's name is the class name, as `-tr` takes it."""
    return ()


@hookspec
def nnkd_register_samplers() -> Iterable[Entry]:
    """Classes derived from `nnkd.Sampler`."""
    return ()


@hookspec
def nnkd_register_auxiliary_schedulers() -> Iterable[Entry]:
    """Classes derived from `nnkd.AuxiliaryScheduler`."""
    return ()
