"""What plans may name. nnU-Net imports and calls whatever class or function a plans.json says, so a model from outside
could run anything; here names are looked at before nnU-Net sees them.

Networks come from dynamic_network_architectures, nnU-Net and installed plugins, their layers from torch.nn too;
readers, preprocessors, resampling and the like from nnU-Net. `allow` adds packages, here and in processes started here.
"""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import os
import pydoc
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from nnkd.errors import SettingError, WeightsError, in_one_line

VARIABLE = "NNKD_ALLOW_ARCHITECTURE"  # packages, separated by commas
FLAG = "--allow_architecture"
PACKAGES = ("dynamic_network_architectures", "nnunetv2", "nnkd")
LAYERS = "torch.nn"
RESAMPLING = "nnunetv2.preprocessing.resampling."
GROUP = "nnkd"  # of plugins' entry points
NEVER = {*sys.stdlib_module_names, "torch", "numpy"}  # packages that can do everything


def allow(packages: Iterable[str]) -> None:
    """Let plans name what these packages define, in this process and those that it starts.

    Raises:
        SettingError: If one is no package's name, such as "monai", or of Python itself, which can do everything.
    """
    added = list(packages)
    strange = [package for package in added if not package.isidentifier() or package in NEVER]
    if strange:
        raise SettingError(f"{FLAG} got '{strange[0]}', but expects the name of a package of networks, such as monai.")
    if added:
        os.environ[VARIABLE] = ",".join(sorted({*_of_the_user(), *added}))


def check(plans: Mapping[str, Any], name: str) -> None:
    """Look at all that plans name, in every configuration.

    Args:
        plans: nnU-Net's plans.json.
        name: What to call them in messages.

    Raises:
        WeightsError: If they name what is not allowed, or no plans at all are there.
    """
    configurations = plans.get("configurations") if isinstance(plans, Mapping) else None
    if not isinstance(configurations, Mapping) or not all(isinstance(c, Mapping) for c in configurations.values()):
        raise WeightsError(f"The plans of '{name}' have no configurations. Copy the file again.")
    for what, text, folder, kind in _of_nnunet(plans, configurations.values()):
        _check_class_of_nnunet(what, text, folder, kind, name)
    for configuration in configurations.values():
        architecture = configuration.get("architecture")
        if architecture is not None:
            _check_architecture(architecture, name)


def check_reader(dataset_json: Mapping[str, Any], name: str) -> None:
    """The same for the reader that a dataset.json may name.

    Raises:
        WeightsError: If it is none of nnU-Net's readers.
    """
    text = dataset_json.get("overwrite_image_reader_writer", "None")
    if text != "None":  # nnU-Net's way of saying that there is none
        _check_class_of_nnunet("overwrite_image_reader_writer", text, "imageio", "BaseReaderWriter", name)


def _of_nnunet(
    plans: Mapping[str, Any], configurations: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Any, str, str]]:
    """What names a class or function of nnU-Net's: key, name, folder in nnunetv2, and kind."""
    whole = (
        ("image_reader_writer", "imageio", "BaseReaderWriter"),
        ("label_manager", "utilities/label_handling", "LabelManager"),
        ("experiment_planner_used", "experiment_planning", "ExperimentPlanner"),
    )
    for key, folder, kind in whole:
        if key in plans:
            yield key, plans[key], folder, kind
    for configuration in configurations:
        if "preprocessor_name" in configuration:
            yield "preprocessor_name", configuration["preprocessor_name"], "preprocessing", "DefaultPreprocessor"
        schemes = configuration.get("normalization_schemes") or ()
        for scheme in schemes if isinstance(schemes, list | tuple | Mapping) else (schemes,):
            yield "normalization_schemes", scheme, "preprocessing/normalization", "ImageNormalization"
        for key in ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
            if key in configuration:
                yield key, configuration[key], "preprocessing/resampling", ""


def _check_class_of_nnunet(what: str, text: Any, folder: str, kind: str, name: str) -> None:
    """Refuse a name under which nnU-Net's search finds something else than what it looks for."""
    if not isinstance(text, str) or not text.isidentifier():
        raise _refused(what, text, name, "is no name of a class of nnU-Net's")
    found = _found_in_nnunet(text, folder)
    if found is None:
        return  # nnU-Net says so
    if kind and not (isinstance(found, type) and kind in {base.__name__ for base in found.__mro__}):
        raise _refused(what, text, name, f"is no {kind}")
    resamples = inspect.isfunction(found) and (found.__module__.startswith(RESAMPLING) or _is_of(found, _of_the_user()))
    if not kind and not resamples:
        raise _refused(what, text, name, "is no function of nnU-Net's that resamples")
    if not _is_of(found, {"nnunetv2", *_of_the_user()}):
        raise _refused(what, text, name, f"is of {found.__module__}, not of nnU-Net")


@lru_cache(maxsize=256)
def _found_in_nnunet(text: str, folder: str) -> Any:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    where = str(Path(nnunetv2.__path__[0]) / folder)
    return recursive_find_python_class(where, text, current_module=f"nnunetv2.{folder.replace('/', '.')}")


def _check_architecture(architecture: Any, name: str) -> None:
    if not isinstance(architecture, Mapping):
        raise _refused("architecture", architecture, name, "is no description of a network")
    keywords = architecture.get("arch_kwargs") or {}
    imported = architecture.get("_kw_requires_import") or []
    if not isinstance(keywords, Mapping) or not isinstance(imported, list):
        raise _refused("architecture", "arch_kwargs", name, "is no description of a network")
    _check_module("network_class_name", architecture.get("network_class_name"), name, layers=False)
    for keyword in imported:
        if not isinstance(keyword, str) or keyword not in keywords:
            raise _refused("_kw_requires_import", keyword, name, "is none of the keywords of its network")
        value = keywords[keyword]
        if value is not None:
            _check_module(str(keyword), value, name, layers=True)


def _check_module(what: str, text: Any, name: str, *, layers: bool) -> None:
    """Refuse what is no torch.nn.Module that an allowed package defines."""
    if not isinstance(text, str) or not all(part.isidentifier() for part in text.split(".")):
        raise _refused(what, text, name, "is no name of a class")
    package, dot, _ = text.partition(".")
    allowed = _allowed()
    if dot and package not in allowed and not (layers and text.startswith(f"{LAYERS}.")):
        if package in NEVER:
            raise _refused(what, text, name, "is no network or layer")
        raise WeightsError(
            f"The plans of '{name}' name {text} as {what}, and the package {package} is neither nnU-Net's nor an "
            f"installed plugin's, so it is not imported. If you trust the model and the package, name it: "
            f"{FLAG} {package}, or {VARIABLE}={package}."
        )
    if not dot and (hasattr(builtins, text) or importlib.util.find_spec(text) is not None):
        raise _refused(what, text, name, "is no class of a package")
    found = _located(text)
    if found is None:
        return  # nnU-Net finds none either, and says so; a trainer that builds its own network does not look
    if _is_network(found) and _is_of(found, {*allowed, "torch"} if layers else allowed):
        return
    if inspect.isroutine(found) and _is_of(found, _of_the_user()):
        return  # a function of a package that the user named may build a network too
    raise _refused(what, text, name, "is no network or layer (torch.nn.Module) that such a package defines")


@lru_cache(maxsize=256)
def _located(text: str) -> Any:
    """What nnU-Net would find under a name whose package is allowed.

    Raises:
        WeightsError: If importing it fails.
    """
    import dynamic_network_architectures
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    try:
        found = pydoc.locate(text) if "." in text else None
    except pydoc.ErrorDuringImport as error:
        why = in_one_line(error.value or error)
        raise WeightsError(f"{text} cannot be imported ({why}). Install what it needs.") from error
    if found is not None:
        return found
    folder = str(Path(dynamic_network_architectures.__path__[0]) / "architectures")
    return recursive_find_python_class(folder, text.split(".")[-1], "dynamic_network_architectures.architectures")


def _is_network(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)


def _is_of(found: Any, packages: Iterable[str]) -> bool:
    return str(getattr(found, "__module__", "")).partition(".")[0] in set(packages)


def _allowed() -> set[str]:
    return {*PACKAGES, *_of_plugins(), *_of_the_user()}


def _of_the_user() -> set[str]:
    named = {package.strip() for package in os.environ.get(VARIABLE, "").split(",") if package.strip()}
    return named - NEVER


@lru_cache(maxsize=1)
def _of_plugins() -> frozenset[str]:
    """Packages that offer nnkd a plugin; nothing is imported."""
    return frozenset(point.value.partition(":")[0].partition(".")[0] for point in metadata.entry_points(group=GROUP))


def _refused(what: str, text: Any, name: str, why: str) -> WeightsError:
    said = str(text)[:80]
    return WeightsError(
        f"The plans of '{name}' name '{said}' as {what}, which {why}, so it is not run. Ask the model's author for "
        f"the plans that nnU-Net wrote."
    )
