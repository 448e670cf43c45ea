"""Tests of nnkd.training.loader: targets must follow the image through nnU-Net's augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from planned import configuration, make_plans, preprocess, preprocessed_folder
from toy import toy_dataset, toy_teacher

from nnkd.plugin.samplers import Sampler
from nnkd.training.loader import Draw, VotesDataLoader
from nnkd.training.targets import Targets
from nnkd.types import Participant


class Pairs(Sampler):
    """A sampler of two batches an epoch."""

    def batches(self, participants, batch_size, rng):
        cases = sorted(participants)
        for _ in range(2):
            yield list(rng.choice(cases, batch_size))


def spatial(size, moves):
    return SpatialTransform(
        size, patch_center_dist_from_border=0, random_crop=False, p_rotation=moves, rotation=(-0.5, 0.5),
        p_scaling=moves, scaling=(0.7, 1.4), border_mode_seg="constant", padding_value_seg=-1,
    )  # fmt: skip


@pytest.fixture
def image_is_vote(nnunet_folders):
    """A preprocessed case whose image is its teacher's vote for label 1, so that target and image must stay equal."""
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy", training=1, labelled=1, shape=(12, 40, 36))
    toy_teacher(dataset, "t0")
    plans = make_plans(dataset, {"3d_fullres": configuration("3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0))})
    votes = preprocess(dataset, plans, "3d_fullres")
    cases = nnUNetDatasetBlosc2(str(preprocessed_folder(dataset) / "nnUNetPlans_3d_fullres"), ["toy_000"])

    def load_case(case):
        _, seg, previous, properties = nnUNetDatasetBlosc2.load_case(cases, case)
        return votes.open(case)[:][:1].astype(np.float32), seg, previous, properties

    cases.load_case = load_case
    return cases, votes


@pytest.mark.parametrize("moves", [0, 1])
@pytest.mark.parametrize("kind", ["2d", "3d", "3d slice by slice"])
def test_targets_follow_the_image(image_is_vote, kind, moves):
    cases, votes = image_is_vote
    final, initial = ((16, 16), (24, 24)) if kind == "2d" else ((8, 16, 16), (8, 24, 24))
    steps = [spatial(final[1:] if kind == "3d slice by slice" else final, moves)]
    if kind == "3d slice by slice":
        steps = [Convert3DTo2DTransform(), *steps, Convert2DTo3DTransform()]
    steps.append(MirrorTransform(allowed_axes=tuple(range(len(final)))))
    table = np.array([[0, 1], [0, 1]], dtype=np.float32)
    targets = Targets(labels=((1,), (2,)), votes=votes, tables={"toy_000": table})
    manager = LabelManager({"background": 0, "liver": 1, "spleen": 2}, None)
    loader = VotesDataLoader(
        cases, 2, initial, final, manager, 1.0, transforms=ComposeTransforms(steps), targets=targets
    )
    np.random.seed(0)
    seen = 0.0
    for _ in range(4):
        batch = loader.generate_train_batch()
        assert batch["target"].shape == (2, 2, *final)
        torch.testing.assert_close(batch["target"][:, :1], batch["data"], atol=1e-5, rtol=0)
        seen += float(batch["target"].sum())
    assert seen > 0


def test_augmentation_is_not_seeded(image_is_vote):
    """docs/limits.md says so."""
    cases, votes = image_is_vote
    targets = Targets(labels=((1,), (2,)), votes=votes, tables={"toy_000": np.array([[0, 1], [0, 1]], np.float32)})
    manager = LabelManager({"background": 0, "liver": 1, "spleen": 2}, None)
    sizes = (8, 24, 24), (8, 16, 16)
    moves = ComposeTransforms([spatial(sizes[1], 1)])
    first, second = (
        VotesDataLoader(cases, 2, *sizes, manager, 1.0, transforms=moves, targets=targets).generate_train_batch()
        for _ in range(2)
    )
    assert not torch.equal(first["data"], second["data"])


def test_equal_seeds_give_equal_batches_and_workers_share_them():
    people = {f"c{i}": Participant(f"p{i}") for i in range(9)}

    def first(worker, workers, seed=0, part=slice(None)):
        stream = Draw(Pairs(), people, 4, part, seed, workers).batches(worker)
        return [next(stream) for _ in range(6)]

    alone = first(0, 1)
    assert first(0, 1) == alone
    assert first(0, 1, seed=1) != alone
    assert alone[0:6:2] == first(0, 2)[:3]
    assert alone[1:6:2] == first(1, 2)[:3]
    assert [b[:2] for b in alone] == first(0, 1, part=slice(0, 2))
    assert [b[2:] for b in alone] == first(0, 1, part=slice(2, 4))


def test_a_continued_training_goes_on_where_it_ended(monkeypatch):
    people = {f"c{i}": Participant(f"p{i}") for i in range(9)}
    monkeypatch.setattr(Pairs, "epoch_length", lambda *_: 2)

    def first(worker, workers, start):
        stream = Draw(Pairs(), people, 4, slice(None), 0, workers, start).batches(worker)
        return [next(stream) for _ in range(6)]

    whole = [*first(0, 1, 0), *first(0, 1, 6)]
    assert first(0, 1, 3) == whole[3:9]
    assert first(0, 2, 5)[:3] == whole[5:11:2]
    assert first(1, 2, 5)[:3] == whole[6:12:2]


def test_epochs_of_unknown_length_are_not_drawn_again():
    people, asked = {f"c{i}": Participant(f"p{i}") for i in range(9)}, []

    class Noted(Pairs):
        def epoch(self, participants, batch_size, seed, number):
            asked.append(number)
            return super().epoch(participants, batch_size, seed, number)

    def first(worker, workers, start):
        stream = Draw(Noted(), people, 4, slice(None), 0, workers, start).batches(worker)
        return [next(stream) for _ in range(4)]

    whole = first(0, 1, 10**9)
    assert asked == [10**9, 10**9 + 1]  # and none of those before, which would take hours
    assert first(0, 2, 10**9)[:2] == whole[0::2]
    assert first(1, 2, 10**9)[:2] == whole[1::2]
    asked.clear()
    first(0, 1, 0)
    first(0, 1, 4)
    assert len(set(asked)) == len(asked)  # no epoch twice


def test_a_sampler_without_batches_is_named():
    class Empty(Sampler):
        def batches(self, *_):
            return iter(())

    with pytest.raises(RuntimeError, match="Empty gave an epoch without batches"):
        next(Draw(Empty(), {}, 1, slice(None), 0, 1).batches(0))
