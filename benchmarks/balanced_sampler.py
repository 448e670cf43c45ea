"""The sampler `balanced` against paper 1's nine queues, written down as they are, by the size of the cohort.

    python benchmarks/balanced_sampler.py
    python benchmarks/balanced_sampler.py --sizes 351 10000 --out sampler.jsonl

Cohorts have paper 1's marginals, with independent attributes; batches have 24 participants. Process CPU seconds of one
thread. A batch of the nine queues: the median over `--batches` of them in a fresh epoch. A batch of `balanced`: a whole
epoch, its shuffles included, by its number of batches; the median over epochs. Sorting the cohort into strata and
planning are done once a training and shown apart. Balance is checked in every batch that is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from nnkd_fairness.balanced import Balanced
from nnkd_fairness.balanced_paper import BalancedPaper

from nnkd.types import Participant

SIZE = 24
GROUPS = (("F", "M"), (20.0, 30.0, 40.0, 50.0), (18.0, 22.0, 27.0))
MARGINALS = ((411 / 702, 291 / 702), (0.437, 0.222, 0.167, 0.174), (0.288, 0.392, 0.320))
COLUMNS = ("sex", "age", "bmi")


def cohort(number: int, seed: int) -> dict[str, Participant]:
    """By case, one each."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(len(m), number, p=np.array(m) / sum(m)) for m in MARGINALS]
    rows = zip(*([groups[i] for i in some.tolist()] for groups, some in zip(GROUPS, drawn, strict=True)), strict=True)
    return {f"c{i:07d}": Participant(f"p{i:07d}", *row) for i, row in enumerate(rows)}


class NineQueues:
    """Section 2.2 word by word: nine sets, from which every participant drawn is removed and into which every one put
    back returns; replacements are drawn from the intersection of the sets they must be in."""

    def __init__(self, participants: dict[str, Participant], seed: int):
        self.people = participants
        self.random = random.Random(seed)
        self.queues = {(c, g): set() for c, groups in zip(COLUMNS, GROUPS, strict=True) for g in groups}
        for case in participants:
            self.put_back(case)

    def put_back(self, case: str) -> None:
        """Into its three queues."""
        for column in COLUMNS:
            self.queues[column, self.people[case].value(column)].add(case)

    def take(self, case: str) -> None:
        """Out of its three queues."""
        for column in COLUMNS:
            self.queues[column, self.people[case].value(column)].discard(case)

    def batch(self) -> list[str] | None:
        """The next one; None where a queue runs dry."""
        batch: list[str] = []
        for sex in GROUPS[0]:
            if len(self.queues["sex", sex]) < SIZE // 2:
                return None
            for case in self.random.sample(tuple(self.queues["sex", sex]), SIZE // 2):
                self.take(case)
                batch.append(case)
        kept = ["sex"]
        for column, groups in zip(COLUMNS[1:], GROUPS[1:], strict=True):
            while True:
                counts = Counter(dict.fromkeys(groups, 0))
                counts.update(self.people[case].value(column) for case in batch)
                over, under = max(groups, key=counts.get), min(groups, key=counts.get)
                if counts[under] and counts[over] / counts[under] <= 1.1:
                    break
                removed = self.random.choice([case for case in batch if self.people[case].value(column) == over])
                wanted = [self.queues[key, self.people[removed].value(key)] for key in kept]
                candidates = tuple(set.intersection(self.queues[column, under], *wanted))
                if not candidates:
                    return None
                batch.remove(removed)
                self.put_back(removed)
                batch.append(self.random.choice(candidates))
                self.take(batch[-1])
            kept.append(column)
        return batch


def check(participants: dict[str, Participant], batch: list[str]) -> None:
    """Equal counts in all three columns: with 24, a ratio of at most 1.1 is a ratio of 1."""
    for column, groups in zip(COLUMNS, GROUPS, strict=True):
        assert set(Counter(participants[case].value(column) for case in batch).values()) == {SIZE // len(groups)}


def timed(make: Iterator[list[str]]) -> tuple[list[list[str]], float]:
    """All batches, and the seconds they took."""
    start = time.process_time()
    batches = list(make)
    return batches, time.process_time() - start


def measure(number: int, seed: int, batches: int) -> dict[str, float]:
    """One cohort: seconds by what was done."""
    people = cohort(number, seed)
    queues, literal = NineQueues(people, seed), []
    while len(literal) < batches:
        start = time.process_time()
        batch = queues.batch()
        if batch is None:
            break
        literal.append(time.process_time() - start)
        check(people, batch)
    sampler = Balanced()
    start = time.process_time()
    strata = sampler.strata(people)
    sorting = time.process_time() - start
    start = time.process_time()
    plans = sampler.turns(strata, SIZE).plans
    planning = time.process_time() - start
    epochs = []
    for epoch in range(max(1, min(20, 20_000 // number))):
        drawn, seconds = timed(sampler.epoch(people, SIZE, seed, epoch))
        assert len(drawn) == plans[0].number
        for batch in drawn:
            check(people, batch)
        epochs.append(seconds / len(drawn))
    return {
        "participants": number,
        "nine_queues": statistics.median(literal),
        "balanced": statistics.median(epochs),
        "sorting": sorting,
        "planning": planning,
        "plans": len(plans),
        "batches": plans[0].number,
        "bound": plans[0].bound,
    }


def coverage(seeds: int) -> dict[str, float]:
    """Batches an epoch at 351 participants, of `balanced` and of `balanced_paper`."""
    best, paper = [], []
    for seed in range(seeds):
        people = cohort(351, seed)
        best.append(Balanced().epoch_length(people, SIZE))
        paper.append(sum(1 for _ in BalancedPaper().batches(people, SIZE, np.random.default_rng(seed))))
    return {"balanced": statistics.fmean(best), "balanced_paper": statistics.fmean(paper), "cohorts": seeds}


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[351, 10_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=int, default=15, help="batches of the nine queues, at most")
    parser.add_argument("--cohorts", type=int, default=20, help="cohorts of 351 in which batches are counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSONL to append to")
    options = parser.parse_args()
    rows = []
    print("participants  nine queues   balanced     ratio   strata (once)  plans (once)  batches an epoch (bound)")
    for number in options.sizes:
        row = measure(number, options.seed, options.batches)
        rows.append(row)
        print(
            f"{number:12d}  {1e3 * row['nine_queues']:8.2f} ms  {1e3 * row['balanced']:7.3f} ms  "
            f"{row['nine_queues'] / row['balanced']:6.0f}x  {row['sorting']:11.2f} s  "
            f"{row['planning']:9.2f} s / {row['plans']}  {row['batches']:8d} ({row['bound']})"
        )
    counted = coverage(options.cohorts)
    print(
        f"351 participants, {counted['cohorts']} cohorts: {counted['balanced']:.1f} batches of {SIZE} an epoch, by the "
        f"paper's procedure {counted['balanced_paper']:.1f}"
    )
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"benchmark": "balanced_sampler", "rows": rows, "counted": counted}) + "\n")


if __name__ == "__main__":
    main()
