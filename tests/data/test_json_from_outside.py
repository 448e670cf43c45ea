"""What nnkd reads as JSON, mutated: it is read, or refused in one sentence."""

from __future__ import annotations

import copy
import json
import os
import random
from unittest.mock import Mock

import pytest
from nnkd_ucb.ucb import Ucb

from nnkd.auxiliary.turns import read_turns
from nnkd.boxes.pictures import read_windows
from nnkd.data.boxes import GivenBoxes
from nnkd.data.dataset import DatasetSpec, RawDataset
from nnkd.data.plans import form_problem, read_plans
from nnkd.data.predictions import PredictionFolder
from nnkd.data.recipes import Recipe
from nnkd.data.split_record import Record
from nnkd.data.splits import read_folds
from nnkd.errors import NnkdError
from nnkd.files import read_json
from nnkd.training.along.turns import Turns
from nnkd.votes import consensus
from nnkd.votes.agreement import AgreementFile, lines, summarise
from nnkd.votes.folder import VotesFolder
from nnkd.weights import architectures

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


def agreement(file):
    figures = AgreementFile(file, {"teachers": ["a", "b"]})
    figures.has("toy", {"a": "0"})
    labels = [case["labels"] for case in figures.cases.values()]
    known = set.intersection(*map(set, labels)) if labels else ()
    return lines(summarise(labels, ["a", "b"], known), figures.volume_unit)


def scheduler(file):
    """A state of a checkpoint's log."""
    bandit = Ucb(["a", "b"])
    Turns.load_state_dict(Mock(scheduler=bandit), read_json(file))
    return bandit.select()


def of_dataset(name, read):
    """A file that is read through the dataset that it lies in."""

    def reader(file):
        (file.parent / "dataset.json").write_text(json.dumps(DATASET))
        file.replace(file.with_name(name))
        return read(RawDataset(file.parent))

    return reader


def votes(file):
    file.replace(file.with_name("votes.json"))
    index = VotesFolder(file.parent).index
    return [VotesFolder(file.parent).file(case) for case in (*index.cases, *index.manual)]


def plans(file):
    found = read_plans(file.parent, "a")
    architectures.check(found, "a")
    return form_problem(found)


UNET = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
DRAW = {"number": 2, "seed": 0, "stratify": ["sex"], "bins": {"age": [40.0]}, "cases": ["toy"], "returning": []}
LABELS = {"background": 0, "liver": 1, "kidney": [2, 3], "ignore": 4}
CASE = {"inputs": {"image": "0"}, "output": "1", "answers": ["liver"]}
DATASET = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", "regions_class_order": [1, 2]}
WHOLE = {
    dataset: DATASET,
    manifest: {"kind": "teacher", "name": "t", "made_by": "atlas", "labels": {"liver": [1]}, "file_ending": ".nii.gz",
               "lineage": [{"name": "a"}], "cases": {"toy": CASE}},
    boxes: {"toy": {"liver": [[0, 1, 1, 3, 5, 5]]}, "other": [[1, 1, 1, 4, 4]]},
    turns: [{"turn": 1, "dataset": "a", "counts": {"a": 1}}, {"turn": 2, "dataset": "b", "counts": {"a": 1, "b": 1}}],
    lambda file: Recipe.of_plans(read_json(file)): {"plans_name": "p", "configurations": {}, "nnkd": {"base": "p"}},
    of_dataset("consensus.json", consensus.read): {"chosen": ["a"], "cases": {"toy": {
        "source": "consensus", "sha256": "0", "teachers": ["a"], "inputs": {"a": "1"}, "previous_sha256": None}}},
    of_dataset("split.json", Record.read): {"schema_version": 1, "test": DRAW, "labelled": DRAW},
    votes: {"schema_version": 1, "teachers": ["a"], "labels": ["liver"], "manual": ["own"], "lineage": [{"name": "a"}],
            "cases": {"toy": {"outputs": {"a": "0"}, "answers": {"a": ["liver"]}, "counts": {"liver": {"1": 5}}}}},
    read_folds: [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}],
    lambda file: read_windows(str(file), ["liver", "lung"]): {"liver": [60, 400], "lung": "lung"},
    agreement: {"schema_version": 1, "teachers": ["a", "b"], "volume_unit": "ml", "labels": {}, "cases": {"toy": {
        "inputs": "0", "disagreement": 0.1, "labels": {"liver": {"volume": {"a": 1.0, "b": 2.0}, "dsc": {"a": 0.5},
        "pairs": [["a", "b", 0.5]], "ties": 1, "voted": 2, "not_estimated": {"x": "why"}}}}}},
    scheduler: {"turns": 3, "heads": {}, "scheduler": {**Ucb(["a", "b"]).state_dict(), "turn": 3}},
    plans: {"dataset_name": "Dataset701_Toy", "plans_name": "a", "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2], "configurations": {"2d": {"data_identifier": "a_2d",
            "patch_size": [16, 16], "spacing": [1.0, 1.0], "normalization_schemes": ["CTNormalization"],
            "architecture": {"network_class_name": UNET, "arch_kwargs": {"conv_op": "torch.nn.Conv2d"},
                             "_kw_requires_import": ["conv_op"]}}}},
}  # fmt: skip
READERS = ["dataset", "manifest", "boxes", "turns", "recipe", "consensus", "split", "votes", "splits", "windows",
           "agreement", "scheduler", "plans"]  # fmt: skip
MENDS = {"agreement"}  # what it cannot read is counted again


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


@pytest.mark.parametrize("read", WHOLE, ids=READERS)
def test_mutated_json_is_read_or_refused_in_one_sentence(tmp_path, read, request):
    draw, file, said = random.Random(1), tmp_path / "a.json", []
    file.write_text(json.dumps(WHOLE[read]))
    read(file)
    tries = int(os.environ.get("NNKD_TRIES", "60"))
    for _ in range(tries):
        file.write_text(json.dumps(mutated(WHOLE[read], draw)))
        try:
            read(file)
        except NnkdError as error:
            said.append(str(error))
    assert said or request.node.callspec.id in MENDS
    assert max(map(len, said), default=0) < 400
