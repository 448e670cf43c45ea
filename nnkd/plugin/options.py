"""Options of plugins and trainers: the keyword-only arguments of `__init__`, set with --set NAME.option=value."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from typing import Any

from nnkd.errors import BrokenPluginError, SettingError
from nnkd.files import from_json
from nnkd.types import Kind


@dataclass(frozen=True)
class Option:
    """One option: its name, its annotation and its default."""

    name: str
    annotation: Any
    default: Any


def options_of(target: Callable[..., object]) -> dict[str, Option]:
    """Options by name: the keyword-only arguments that have a default.

    Args:
        target: A class, or a function.

    Raises:
        BrokenPluginError: If an annotation cannot be resolved.
    """
    function = target.__init__ if inspect.isclass(target) else target
    try:
        # a dataclass's generated __init__ does not know the modules of the classes it inherits fields from
        hints = typing.get_type_hints(target if is_dataclass(target) else function, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise BrokenPluginError(
            f"The options of {getattr(target, '__name__', target)} cannot be read: {error}. "
            f"Import the types of its annotations at run time."
        ) from error
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: Option(p.name, hints.get(p.name, str), p.default)
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is not inspect.Parameter.empty
    }


def split_settings(settings: Iterable[str]) -> dict[str, dict[str, str]]:
    """Sort "owner.option=value" and "option=value" by owner; the owner of the second form is "".

    Raises:
        SettingError: If one has no "=", or the same option is set twice.
    """
    result: dict[str, dict[str, str]] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        owner, _, name = key.strip().rpartition(".")
        if not equals or not name:
            raise SettingError(
                f"--set got '{setting}', but expects option=value or NAME.option=value, such as majority.ties=no."
            )
        mine = result.setdefault(owner, {})
        if name in mine:
            raise SettingError(f"--set got '{key.strip()}' twice; leave one of them out.")
        mine[name] = value.strip()
    return result


def sort_settings(
    settings: Iterable[str], owners: Mapping[Kind, str | None], class_of: Callable[[Kind, str], type]
) -> tuple[dict[str, str], dict[Kind, dict[str, str]]]:
    """Which of a training's settings belong to whom. Owners of one name share its settings: each takes the options that
    it has, and the last one the rest.

    Args:
        settings: As after --set: "option=value" of the training itself, "NAME.option=value" of others.
        owners: Names of the others by kind; None where there is none of that kind.
        class_of: Loads a class; asked only for names that two owners have.

    Returns:
        The training's own options, and those of each owner by kind.

    Raises:
        SettingError: If one belongs to nobody, or as `split_settings`.
    """
    given = split_settings(settings)
    own, names = given.pop("", {}), list(owners.values())
    taken: dict[Kind, dict[str, str]] = {kind: {} for kind in owners}
    for place, (kind, name) in enumerate(owners.items()):
        if name is None:
            continue
        mine = given.pop(name, {})
        if mine and name in names[place + 1 :]:
            known = options_of(class_of(kind, name))
            given[name] = {option: value for option, value in mine.items() if option not in known}
            mine = {option: value for option, value in mine.items() if option in known}
        taken[kind] = mine
    if given:
        others = [f"to the {kind.replace('_', ' ')} {name or '(-as)'}" for kind, name in owners.items()]
        raise SettingError(
            f"--set names '{next(iter(given))}', but options belong to the training itself (epochs=200), "
            f"{', '.join(others[:-1])} or {others[-1]}."
        )
    return own, taken


def parse_options(target: Callable[..., object], given: Mapping[str, object], owner: str) -> dict[str, Any]:
    """Check and convert options against a class's annotations.

    Args:
        target: The class whose keyword-only arguments are the options.
        given: Values by option name; strings are converted ("3", "true", "a,b", JSON, "none").
        owner: What to call it in messages.

    Returns:
        All options of the class, defaults filled in.

    Raises:
        SettingError: If an option does not exist or cannot take the value.
    """
    known = options_of(target)
    values = {name: option.default for name, option in known.items()}
    for name, value in given.items():
        if name not in known:
            raise SettingError(_unknown(owner, name, list(known)))
        values[name] = _convert(known[name], value, owner)
    return values


def _unknown(owner: str, name: str, known: list[str]) -> str:
    if not known:
        return f"'{owner}' has no option '{name}'; it has none at all."
    close = get_close_matches(name, known, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"'{owner}' has no option '{name}'; it has {', '.join(known)}.{hint}"


def _convert(option: Option, value: object, owner: str) -> object:
    from pydantic import PydanticUserError, TypeAdapter, ValidationError  # 0.15 s: not for --help

    try:
        return TypeAdapter(option.annotation).validate_python(_literal(option.annotation, value))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise SettingError(f"'{owner}.{option.name}' got '{value}': {reason} (default: {option.default}).") from None
    except PydanticUserError as error:
        raise BrokenPluginError(
            f"'{owner}.{option.name}' is annotated as {option.annotation}, which no text can be turned into. "
            f"Annotate it with plain types: int, float, bool, str, Literal, list, dict, None."
        ) from error


def _literal(annotation: object, value: object) -> object:
    """A string as the value it spells, where the annotation is not simply a string."""
    kinds = _alternatives(annotation)
    if not isinstance(value, str) or set(kinds) == {str}:
        return value
    if value.lower() == "none" and type(None) in kinds:
        return None
    choices = {str(choice): choice for kind in kinds for choice in _choices(kind)}
    if value in choices:
        return choices[value]
    if value[:1] in ("[", "{"):
        try:
            return from_json(value)
        except ValueError:
            return value
    if any((typing.get_origin(kind) or kind) in (list, tuple, set, frozenset) for kind in kinds):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _alternatives(annotation: Any) -> list[Any]:
    """`Annotated[int | None, ...]` -> int, None's type: the types a value may have."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _alternatives(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [kind for part in typing.get_args(annotation) for kind in _alternatives(part)]
    return [annotation]


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
