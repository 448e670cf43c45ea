"""The simulated bandit of benchmarks/simulated_bandit.py, cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bandit(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import simulated_bandit

    monkeypatch.setattr(simulated_bandit, "ARMS", 6)
    monkeypatch.setattr(simulated_bandit, "TURNS", 40)
    monkeypatch.setattr(simulated_bandit, "BEST", 2)
    return simulated_bandit


def test_every_scheduler_plays_the_same_game(bandit):
    first, second = bandit.World("drifting", 3), bandit.World("drifting", 3)
    backwards = [second.result(name, 7, "turn") for name in reversed(second.names)]
    assert [first.result(name, 7, "turn") for name in first.names] == backwards[::-1]
    assert first.result("arm 00", 7, "turn") != first.result("arm 00", 7, "score")
    assert first.worth("arm 00", 1) != first.worth("arm 00", 40)
    assert bandit.World("constant", 3).worth("arm 00", 1) == bandit.World("constant", 3).worth("arm 00", 40)


@pytest.mark.parametrize("kind", ["constant", "drifting"])
def test_games_are_scored(bandit, kind):
    for scheduler in bandit.SCHEDULERS:
        found = bandit.play(scheduler, kind, 0)
        assert 0 <= found["top5"] <= 1
        assert 40 / 6 <= found["most"] <= 40
        assert 0 <= found["never"] <= 5
        assert 0 <= found["regret"] < 40
    assert bandit.play("ucb log", kind, 0)["scores"] == 6 + 39 * 5
    assert bandit.play("gms", kind, 0)["most"] == 40


def test_what_is_there_is_not_played_again(bandit, monkeypatch, tmp_path, capsys):
    file = tmp_path / "out.jsonl"
    monkeypatch.setattr("sys.argv", ["simulated_bandit", "--seeds", "2", "--out", str(file)])
    bandit.main()
    lines = file.read_text().splitlines()
    assert len(lines) == 2 * 2 * len(bandit.SCHEDULERS)
    file.write_text("\n".join(lines[1:]) + "\n")
    bandit.main()
    assert file.read_text().splitlines() == [*lines[1:], lines[0]]
    assert "| random | 2 |" in capsys.readouterr().out
