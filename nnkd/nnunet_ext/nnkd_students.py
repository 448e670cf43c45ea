"""The one file nnU-Net's own trainer search imports. It asks the registry; nnU-Net only does hasattr(module, name)."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """A student's class by name.

    Raises:
        AttributeError: If no installed plugin offers a student of that name.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    from nnkd.plugin import registry

    plugins = registry.installed()
    if name not in plugins.names("student"):
        raise AttributeError(name)
    return plugins.load("student", name)
