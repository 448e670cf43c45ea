"""Cases shared among processes: each is claimed, done, and given back; what others are at work on is waited for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

from nnkd.teachers.claims import Claims
from nnkd.teachers.runs import Outcome, RunningTeacher

POLL_S = 1.0  # how often to look whether somebody else is done with a case


def do_here(one: RunningTeacher, cases: Sequence[str], poll_s: float = POLL_S) -> Iterator[tuple[str, Outcome]]:
    """Do cases in this process, one after another. Other processes may do the same at the same time.

    Cases that somebody else is at work on come last; they are waited for, and taken over if that process dies.

    Args:
        one: The teacher, its folder open.
        cases: Identifiers.
        poll_s: Seconds between looks at others' cases.

    Yields:
        Each case with what became of it; it is "skipped" if another process did it.

    Raises:
        NnkdError: If the disk is full.
    """
    todo, met = deque(cases), 0  # how many cases in a row others were at work on
    with Claims(one.job.folder) as claims:
        while todo:
            if met >= len(todo):
                time.sleep(poll_s)
                met = 0
            case = todo.popleft()
            claim = claims.take(case)
            outcome = None
            if claim is not None:
                try:
                    outcome = one.do(case, claim)
                finally:
                    claims.release(case)
            if outcome is None or outcome.kind == "lost":
                todo.append(case)
                met += 1
                continue
            met = 0
            yield case, outcome
