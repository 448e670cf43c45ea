"""Which dataset would a scheduler choose if it were known what each is worth? A bandit with 30 arms and 400 turns.

    python benchmarks/simulated_bandit.py [--worlds constant drifting] [--seeds 30] [--out FILE.jsonl]

Nothing is trained. An arm stands for an auxiliary dataset. In turn t = 1 ... 400 arm a, if chosen, gives

    cosine  worth_a(t) + normal noise with standard deviation 0.2, cut to [-1, 1]
    loss    start_a (0.25 + 0.75 exp(-t / 100)) + normal noise with standard deviation 0.05,
            start_a uniform in [0.5, 1.5]

so that -loss is about -0.5 to -1.5 early on, and cosines are about 0.3 to 0.99, as in the log that paper 3's authors
published. Loss and cosine of an arm have nothing to do with each other. Norms of gradients are uniform in [0.5, 1.5]
for every arm, 1 for the target. The worth of an arm:

    constant  uniform in [0.3, 0.99], the same in all turns
    drifting  moves in a straight line from one such number in turn 1 to another in turn 400: who helps first does not
              help in the end, as paper 3 says of its Figure 3

Scores (before the first turn and after `rescore_every` turns) are drawn as the chosen arm's results are. The noise of a
turn and arm depends on the seed alone: all schedulers play the same game. By scheduler, means over seeds of

    top5    share of turns with one of the five arms that are worth most in that turn; chance gives 5 / 30
    most    turns with the arm that was chosen most often
    never   arms that were never chosen
    regret  sum over turns of the highest worth minus the chosen arm's, in units of cosine
    scores  backward passes that train nothing

`mtl` and `none` choose nothing: the first trains on all arms in every turn, which is worth what `random` is. What
stands in the JSONL is not played again.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from math import exp
from pathlib import Path
from random import Random

from nnkd_ucb.flad import Dal
from nnkd_ucb.rivals import Gms
from nnkd_ucb.rivals import Random as Uniform
from nnkd_ucb.ucb import Ucb
from tables import read

ARMS, TURNS, BEST = 30, 400, 5
WORTH, START = (0.3, 0.99), (0.5, 1.5)
COSINE_NOISE, LOSS_NOISE = 0.2, 0.05
WORLDS = ("constant", "drifting")
SCHEDULERS = {
    "ucb paper, c = 1": partial(Ucb, preset="paper"),
    "ucb paper, c = 0.1": partial(Ucb, preset="paper", c=0.1),
    "ucb log": partial(Ucb, preset="log"),
    "ucb log, every 10 turns": partial(Ucb, preset="log", rescore_every=10),
    "ucb decoupled, beta = 0.9": partial(Ucb, preset="decoupled", beta=0.9),
    "ucb decoupled, c = 1, beta = 0.9": partial(Ucb, preset="decoupled", c=1.0, beta=0.9),
    "ucb decoupled, beta = 0.5": partial(Ucb, preset="decoupled", beta=0.5),
    "ucb decoupled": partial(Ucb, preset="decoupled"),
    "dal exp3": partial(Dal, algorithm="exp3"),
    "dal ucb1": partial(Dal, algorithm="ucb1"),
    "gms": Gms,
    "random": Uniform,
}
COLUMNS = {"top5": ".0%", "most": ".0f", "never": ".1f", "regret": ".0f", "scores": ",.0f"}


class World:
    """What the arms of one game give.

    Attributes:
        names: Of the arms.
    """

    def __init__(self, kind: str, seed: int):
        rng = Random(f"{kind}/{seed}")
        self.names = [f"arm {i:02d}" for i in range(ARMS)]
        first = {name: rng.uniform(*WORTH) for name in self.names}
        last = {name: rng.uniform(*WORTH) for name in self.names} if kind == "drifting" else first
        self._ends = {name: (first[name], last[name]) for name in self.names}
        self._starts = {name: rng.uniform(*START) for name in self.names}
        self._norms = {name: rng.uniform(*START) for name in self.names}
        self._seed = f"{kind}/{seed}"

    def worth(self, name: str, turn: int) -> float:
        """Mean cosine of an arm in a turn, from 1."""
        first, last = self._ends[name]
        return first + (last - first) * (turn - 1) / (TURNS - 1)

    def result(self, name: str, turn: int, occasion: str) -> tuple[float, float]:
        """Loss and cosine of an arm in a turn, 0 before the first; the occasion is "score" or "turn"."""
        rng = Random(f"{self._seed}/{name}/{turn}/{occasion}")
        loss = self._starts[name] * (0.25 + 0.75 * exp(-turn / 100)) + rng.gauss(0, LOSS_NOISE)
        return loss, max(-1.0, min(1.0, self.worth(name, max(turn, 1)) + rng.gauss(0, COSINE_NOISE)))

    def norms(self, name: str) -> tuple[float, float]:
        """Of the arm's and of the target's gradient."""
        return self._norms[name], 1.0


def play(scheduler: str, kind: str, seed: int) -> dict[str, float]:
    """One game."""
    world = World(kind, seed)
    made = SCHEDULERS[scheduler](world.names)
    hits, regret, scores = 0, 0.0, 0
    for turn in range(1, TURNS + 1):
        for name in made.unscored():
            made.score(name, *world.result(name, turn - 1, "score"), *world.norms(name))
            scores += 1
        chosen = made.select()
        made.update(chosen, *world.result(chosen, turn, "turn"))
        worth = sorted(((world.worth(name, turn), name) for name in world.names), reverse=True)
        hits += chosen in {name for _, name in worth[:BEST]}
        regret += worth[0][0] - world.worth(chosen, turn)
    counts = made.trace()["counts"].values()
    return {
        "top5": hits / TURNS,
        "most": max(counts),
        "never": sum(count == 0 for count in counts),
        "regret": round(regret, 3),
        "scores": scores,
    }


def table(file: Path, kind: str) -> str:
    """Means over seeds as a Markdown table; after the share and the regret, the standard deviation over seeds."""
    rows = [row for row in read(file) if row["world"] == kind]
    lines = [f"| {kind} | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for scheduler in SCHEDULERS:
        mine = [row for row in rows if row["scheduler"] == scheduler]
        if mine:
            cells = [_cell([row[column] for row in mine], column, form) for column, form in COLUMNS.items()]
            lines.append(f"| {scheduler} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], column: str, form: str) -> str:
    mean = sum(values) / len(values)
    if column not in ("top5", "regret"):
        return format(mean, form)
    deviation = (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5
    return f"{mean:{form}} ± {deviation:{form}}"


def main() -> None:
    """Play what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("simulated_bandit.jsonl"))
    options = parser.parse_args()
    done = {(row["scheduler"], row["world"], row["seed"]) for row in read(options.out)}
    for kind in options.worlds:
        for scheduler in SCHEDULERS:
            for seed in range(options.seeds):
                if (scheduler, kind, seed) not in done:
                    row = {"scheduler": scheduler, "world": kind, "seed": seed, **play(scheduler, kind, seed)}
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
        print(table(options.out, kind) + "\n")


if __name__ == "__main__":
    main()
