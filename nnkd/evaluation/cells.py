"""Numbers, intervals, signs and quantities as tables print them."""

from __future__ import annotations

from typing import Protocol

from nnkd.evaluation.metrics import METRICS

NONE = "—"


class Bounded(Protocol):
    """A number with its interval, or without one."""

    @property
    def value(self) -> float:
        """The number."""

    @property
    def low(self) -> float | None:
        """Lower end."""

    @property
    def high(self) -> float | None:
        """Upper end."""


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """ "0.812"; of a difference "+0.012"; a dash where there is none."""
    return NONE if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def interval(found: Bounded | None, digits: int, sign: bool = False, dash: str = "–") -> str:
    """ "0.801–0.823"; of a difference "-0.002 to +0.026"; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(found.low, digits, sign)}{' to ' if sign else dash}{number(found.high, digits, sign)}"


def cell(found: Bounded | None, digits: int) -> dict[str, str]:
    """A number and its interval apart, for a table of the page."""
    return {"text": number(None if found is None else found.value, digits), "interval": interval(found, digits)}


def in_line(found: Bounded | None, digits: int, sign: bool = False, dash: str = "-", mark: str = "") -> str:
    """ "0.812 (0.801-0.823)", with a mark behind the number."""
    bounds = interval(found, digits, sign, dash)
    value = None if found is None else found.value
    return f"{number(value, digits, sign)}{mark}{f' ({bounds})' if bounds else ''}"


def quantity(metric: str, unit: str) -> str:
    """ "DSC", "HD [mm]".

    Args:
        metric: A name of METRICS.
        unit: Of distances; its first word is shown.
    """
    own = METRICS[metric].unit
    shown = unit.split()[0] if own == "mm" else own
    return f"{metric} [{shown}]" if shown else metric
