"""What nnkd reads as JSON, mutated: it is read, or refused in one sentence."""

from __future__ import annotations

import copy
import json
import random

import pytest

from nnkd.auxiliary.turns import read_turns
from nnkd.data.boxes import GivenBoxes
from nnkd.data.dataset import DatasetSpec
from nnkd.data.predictions import PredictionFolder
from nnkd.data.recipes import Recipe
from nnkd.errors import NnkdError
from nnkd.files import read_json

ODD = [None, True, -1, 0, 1e308, 2**70, "", "x", "\ud800", [], {}, [[]], {"a": 1}, 3.5, ["a", 1]]


def dataset(file):
    spec = DatasetSpec.read(file)
    return spec.labels, spec.values, spec.channel_names


def manifest(file):
    file.rename(file.with_name("manifest.json"))
    return PredictionFolder(file.parent).manifest()


def boxes(file):
    given = GivenBoxes.read(file)
    return given.labels, [given.seen(case, None, (10, 20, 20), False, "") for case in given.content]


def turns(file):
    content = read_json(file)
    lines = content if isinstance(content, list) else [content]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return read_turns(file).datasets


LABELS = {"background": 0, "liver": 1, "kidney": [2, 3], "ignore": 4}
CASE = {"inputs": {"image": "0"}, "output": "1", "answers": ["liver"]}
WHOLE = {
    dataset: {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "regions_class_order": [1, 2]},
    manifest: {"kind": "teacher", "name": "t", "made_by": "atlas", "labels": {"liver": [1]}, "file_ending": ".nii.gz",
               "lineage": [{"name": "a"}], "cases": {"toy": CASE}},
    boxes: {"toy": {"liver": [[0, 1, 1, 3, 5, 5]]}, "other": [[1, 1, 1, 4, 4]]},
    turns: [{"turn": 1, "dataset": "a", "counts": {"a": 1}}, {"turn": 2, "dataset": "b", "counts": {"a": 1, "b": 1}}],
    lambda file: Recipe.of_plans(read_json(file)): {"plans_name": "p", "configurations": {}, "nnkd": {"base": "p"}},
}  # fmt: skip


def mutated(content, draw: random.Random):
    """One value exchanged, taken out or given another name."""
    content = copy.deepcopy(content)
    parts = [content]
    for part in parts:
        inside = part.values() if isinstance(part, dict) else part
        parts += [value for value in inside if isinstance(value, dict | list) and value]
    part = draw.choice(parts)
    key = draw.choice(list(part)) if isinstance(part, dict) else draw.randrange(len(part))
    if draw.random() < 0.6:
        part[key] = copy.deepcopy(draw.choice(ODD))
    elif isinstance(part, dict) and draw.random() < 0.5:
        part[draw.choice(["new", "0", "ignore", ""])] = part.pop(key)
    else:
        del part[key]
    return content


@pytest.mark.parametrize("read", WHOLE, ids=["dataset", "manifest", "boxes", "turns", "recipe"])
def test_mutated_json_is_read_or_refused_in_one_sentence(tmp_path, read):
    draw, file, said = random.Random(1), tmp_path / "a.json", []
    file.write_text(json.dumps(WHOLE[read]))
    read(file)
    for _ in range(150):
        file.write_text(json.dumps(mutated(WHOLE[read], draw)))
        try:
            read(file)
        except NnkdError as error:
            said.append(str(error))
    assert said
    assert max(map(len, said)) < 400
