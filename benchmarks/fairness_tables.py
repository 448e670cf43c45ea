"""Rows of `fairness.py`'s JSONL as Markdown tables in the manner of paper 1: Tables 1 to 3, Figures 2 and 3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from simulated_cohort import GROUPS, ORGANS
from tables import read

from nnkd.evaluation.groups.measures import STARS, stars

RESAMPLES = 2000
MEAN = "mean of the teachers"
TITLES = {"sex": "Sex", "age": "Age", "bmi": "BMI"}


@dataclass(frozen=True)
class Row:
    """A row's scores in all its seeds' test participants, who are different people in each seed.

    Attributes:
        scores: By metric (P, L) float64 by participant and organ; NaN where an organ does not count.
        people: P pairs of seed and case, sorted.
        groups: (P, A) int by attribute, index of the group.
    """

    scores: Mapping[str, np.ndarray]
    people: Sequence[tuple[int, str]]
    groups: np.ndarray

    @cached_property
    def seeds(self) -> np.ndarray:
        """(P,) int."""
        return np.array([seed for seed, _ in self.people])

    @property
    def known_seeds(self) -> list[int]:
        """Each once."""
        return sorted({seed for seed, _ in self.people})

    @cached_property
    def draws(self) -> np.ndarray:
        """(R, P) int: how often each person is in each bootstrap draw, drawn within seeds. Equal people have equal
        draws, so that differences of rows are paired."""
        columns = []
        for seed in self.known_seeds:
            number = int((self.seeds == seed).sum())
            rng = np.random.default_rng([7, seed, number])
            columns.append(rng.multinomial(number, np.full(number, 1 / number), size=RESAMPLES))
        return np.concatenate(columns, axis=1)

    def of(self, people: set[tuple[int, str]]) -> Row:
        """The same in some of the participants."""
        keep = np.array([person in people for person in self.people])
        scores = {metric: values[keep] for metric, values in self.scores.items()}
        return Row(scores, [p for p, k in zip(self.people, keep, strict=True) if k], self.groups[keep])

    def means(self, metric: str, weights: np.ndarray) -> np.ndarray:
        """(R, L) by draw and organ."""
        values = self.scores[metric]
        return (weights @ np.nan_to_num(values)) / (weights @ np.isfinite(values))

    def group_means(self, attribute: int, weights: np.ndarray) -> np.ndarray:
        """(G, R, L) mean DSC by group, draw and organ; NaN where a group has nobody."""
        values = self.scores["DSC"]
        number = len(list(GROUPS.values())[attribute])
        found = []
        with np.errstate(invalid="ignore", divide="ignore"):
            for group in range(number):
                here = weights * (self.groups[:, attribute] == group)
                found.append((here @ np.nan_to_num(values)) / (here @ np.isfinite(values)))
        return np.stack(found)

    def spread(self, attribute: int, weights: np.ndarray) -> np.ndarray:
        """(R, 1 + L) standard deviation of the group means (over groups, not over a sample of them): the mean over
        organs, then each organ's. Source: Li et al. 2025, Table 3."""
        each = np.nanstd(self.group_means(attribute, weights), axis=0)
        return np.concatenate([each.mean(1, keepdims=True), each], axis=1)

    @property
    def once(self) -> np.ndarray:
        """(1, P): everybody as he is."""
        return np.ones((1, len(self.people)))


def load(file: Path, epochs: int, participants: int) -> dict[str, Row]:
    """Rows by name, in the order of the file."""
    found = [r for r in read(file) if (r["epochs"], r["participants"]) == (epochs, participants)]
    groups = {(r["seed"], case): of for r in found if r["row"] == "cohort" for case, of in r["groups"].items()}
    index = {person: [GROUPS[attribute].index(name) for attribute, name in of.items()] for person, of in groups.items()}
    scores: dict[str, dict[int, Mapping]] = {}
    for record in found:
        if record["row"] != "cohort":
            scores.setdefault(record["row"], {})[record["seed"]] = record["scores"]
    rows = {}
    for name, by_seed in scores.items():
        people = sorted(person for person in index if person[0] in by_seed)
        arrays = {
            metric: np.array([[by_seed[s][metric].get(o, {}).get(c, np.nan) for o in ORGANS] for s, c in people])
            for metric in ("DSC", "HD")
        }
        rows[name] = Row(arrays, people, np.array([index[person] for person in people]))
    return rows


def tables(file: Path, epochs: int, participants: int) -> str:
    """All tables; everything in them is simulated."""
    rows = load(file, epochs, participants)
    if not rows:
        return f"No rows with --epochs {epochs} --participants {participants} are in {file.name}."
    parts = [
        f"Simulated cohorts, simulated teachers: {participants} participants a seed, half of them for testing. "
        f"In brackets 95 % bootstrap intervals over test participants.",
        "### Overall (simulated; paper 1's Tables 1 and 2)\n\n" + overall(rows),
        "### One-way ANOVA of DSC over groups (simulated; paper 1's Figure 2)\n\n" + anova(rows),
        "### Standard deviation of the group means of DSC (simulated; paper 1's Table 3)\n\n" + spreads(rows),
        "### Paired differences (simulated; paper 1's Figure 3)\n\n" + against(rows),
        "### Mean DSC by group (simulated)\n\n" + by_group(rows),
    ]
    return "\n\n".join(parts)


def overall(rows: Mapping[str, Row]) -> str:
    """Mean DSC by organ, over organs, and mean HD."""
    lines = [_line("row", "seeds", *(f"DSC {o}" for o in ORGANS), "DSC overall", "HD overall [mm]"), "|---" * 7 + "|"]
    for name, row in rows.items():
        each = row.means("DSC", row.once)[0]
        both = (
            _interval(row.means(m, row.once).mean(1), row.means(m, row.draws).mean(1), d)
            for m, d in (("DSC", 3), ("HD", 1))
        )
        lines.append(_line(name, len(row.known_seeds), *(f"{v:.3f}" for v in each), *both))
    return "\n".join(lines)


def anova(rows: Mapping[str, Row]) -> str:
    """Stars by attribute and organ, all seeds' participants together."""
    from scipy.stats import f_oneway

    lines = [_line("row", *(f"{TITLES[a]}: {o}" for a in GROUPS for o in ORGANS)), "|---" * 10 + "|"]
    for name, row in rows.items():
        cells = []
        for attribute, names in enumerate(GROUPS.values()):
            for organ in range(len(ORGANS)):
                values = row.scores["DSC"][:, organ]
                samples = [values[(row.groups[:, attribute] == g) & np.isfinite(values)] for g in range(len(names))]
                filled = [sample for sample in samples if len(sample) > 1]
                cells.append(_marked(f_oneway(*filled).pvalue) if len(filled) > 1 else "-")
        lines.append(_line(name, *cells))
    legend = ", ".join(f"{_marked(limit / 2)} p < {limit}" for limit, _ in reversed(STARS))
    return "\n".join([*lines, "", f"N.S. p >= 0.05, {legend}; not corrected for the many tests."])


def spreads(rows: Mapping[str, Row]) -> str:
    """Standard deviation over group means by attribute; `all` is the mean over organs."""
    lines = [_line("attribute", "row", *ORGANS, "all", "all, seed by seed"), "|---" * 7 + "|"]
    for attribute, title in enumerate(TITLES.values()):
        for name, row in rows.items():
            every, *each = row.spread(attribute, row.once)[0]
            low, high = _centred(row.spread(attribute, row.draws)[:, 0], every)
            alone = (_alone(row, seed) for seed in row.known_seeds)
            seeds = " ".join(f"{one.spread(attribute, one.once)[0, 0]:.4f}" for one in alone)
            both = f"{every:.4f} ({max(low, 0):.4f}-{high:.4f})"
            lines.append(_line(title, name, *(f"{v:.4f}" for v in each), both, seeds))
    return "\n".join(lines)


def against(rows: Mapping[str, Row]) -> str:
    """Paired differences of overall DSC and of spreads, in the seeds that both rows have: of each student to the
    teachers' mean, of each with a sampler to the same one with uniform batches."""
    titles = [f"SD over {title}" for title in TITLES.values()]
    lines = [_line("row", "minus", "seeds", "DSC overall", *titles, "mean SD, seed by seed"), "|---" * 8 + "|"]
    for name, row in rows.items():
        reference = name.rpartition(", ")[0] or ("" if name.startswith(("teacher", MEAN)) else MEAN)
        both = set(row.people) & set(rows[reference].people) if reference in rows else set()
        if not both:
            continue
        one, other = row.of(both), rows[reference].of(both)
        cells = [_difference(one.means("DSC", w).mean(1) - other.means("DSC", w).mean(1) for w in _weights(one))]
        cells += [
            _difference(one.spread(a, w)[:, 0] - other.spread(a, w)[:, 0] for w in _weights(one))
            for a in range(len(GROUPS))
        ]
        seeds = [f"{_mean_spread(_alone(one, s)) - _mean_spread(_alone(other, s)):+.4f}" for s in one.known_seeds]
        lines.append(_line(name, reference, len(seeds), *cells, " ".join(seeds)))
    return "\n".join(lines)


def _mean_spread(row: Row) -> float:
    return float(np.mean([row.spread(attribute, row.once)[0, 0] for attribute in range(len(GROUPS))]))


def by_group(rows: Mapping[str, Row]) -> str:
    """Mean DSC over organs by group."""
    first = next(iter(rows.values()))
    counts = [
        int((first.groups[:, a] == g).sum()) for a, names in enumerate(GROUPS.values()) for g in range(len(names))
    ]
    titles = [f"{TITLES[a]} {n}" if a != "sex" else n for a, names in GROUPS.items() for n in names]
    titles = [f"{title} (n={count})" for title, count in zip(titles, counts, strict=True)]
    lines = [_line("row", *(title.replace("<", "&lt;") for title in titles)), "|---" * (1 + len(titles)) + "|"]
    for name, row in rows.items():
        means = [row.group_means(a, row.once)[:, 0].mean(1) for a in range(len(GROUPS))]
        lines.append(_line(name, *(f"{v:.3f}" for v in np.concatenate(means))))
    return "\n".join(lines)


def _alone(row: Row, seed: int) -> Row:
    return row.of({person for person in row.people if person[0] == seed})


def _marked(p: float) -> str:
    return stars(p).replace("*", "\\*")


def _interval(value: np.ndarray, drawn: np.ndarray, digits: int) -> str:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return f"{value[0]:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _difference(pair: Iterable[np.ndarray]) -> str:
    value, drawn = pair
    low, high = _centred(drawn, value[0])
    return f"{value[0]:+.4f} ({low:+.4f} to {high:+.4f})"


def _centred(drawn: np.ndarray, value: float) -> np.ndarray:
    """95 % of the draws, moved so that their median is the value: drawing people makes group means spread further, and
    without that an interval may exclude the standard deviation that it is for."""
    return np.nanpercentile(drawn, (2.5, 97.5)) - np.nanmedian(drawn) + value


def _weights(row: Row) -> tuple[np.ndarray, np.ndarray]:
    return row.once, row.draws


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
