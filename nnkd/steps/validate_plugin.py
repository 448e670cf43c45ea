"""Check a plugin for its author: one line per check."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nnkd.plugin.validation import FAILED, NOT_TRIED, OK, Candidate, Check, check
from nnkd.types import StepReport


def validate_plugin(package: str, found: Sequence[Check], candidates: Sequence[Candidate]) -> StepReport:
    """Check a plugin's entries and sum up.

    Args:
        package: What the author called it.
        found: Checks already made while importing it.
        candidates: Its entries.

    Returns:
        Lines, and in `data`: "package", "failed", "not_tried" (numbers) and "checks" (one dictionary each).
    """
    checks = [*found, *(c for candidate in candidates for c in check(candidate))]
    number = {outcome: sum(c.outcome == outcome for c in checks) for outcome in (OK, FAILED, NOT_TRIED)}
    closing = f"{package}: {number[OK]} ok, {number[FAILED]} failed, {number[NOT_TRIED]} not tried"
    return StepReport(
        lines=[*_lines(checks), closing],
        data={
            "package": package,
            "failed": number[FAILED],
            "not_tried": number[NOT_TRIED],
            "checks": [dataclasses.asdict(c) for c in checks],
        },
    )


def _lines(checks: Sequence[Check]) -> list[str]:
    subject = max((len(c.subject) for c in checks), default=0)
    what = max((len(c.what) for c in checks), default=0)
    return [f"{c.outcome:<9}  {c.subject:<{subject}}  {c.what:<{what}}  {c.detail}".rstrip() for c in checks]
