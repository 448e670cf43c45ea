"""What a developer runs: `nox` for all but the long tests, `nox -s NAME` for one, `nox -l` for the list.

Sessions use the environment that nox was started in; `pip install -e ".[test]"` makes it.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs", "test_light"]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and who may import whom."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly in the lower rooms."""
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Whether what README and docs name is there."""
    session.run("python", "-m", "pytest", "-n", "0", "tests/house/test_docs.py", *session.posargs)


@nox.session
def test_light(session: nox.Session) -> None:
    """The tests that neither train nor start many processes: under two minutes on two cores."""
    session.run("python", "-m", "pytest", "-m", "not heavy", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """All tests."""
    session.run("python", "-m", "pytest", *session.posargs)
