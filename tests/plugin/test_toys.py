"""Tests of nnkd.plugin._toys."""

from __future__ import annotations

import numpy as np

from nnkd import SliceBoxes, TextPrompt
from nnkd.plugin._toys import toy_counts, toy_participants, toy_plans, toy_prompts, toy_volume


def test_the_volume_shows_both_organs_in_3d_and_2d():
    for slices in (8, 1):
        volume = toy_volume(slices)
        assert volume.data.dtype == np.float32
        assert volume.shape == (slices, 32, 28)
        assert volume.is_2d == (slices == 1)
        middle = volume.data[0, slices // 2]
        assert middle[0, 0] < 0 < middle[10, 9] < 90 < middle[21, 18]


def test_prompts_are_as_the_teacher_wants_them():
    volume = toy_volume(8)
    assert toy_prompts("none", volume) == {}
    assert toy_prompts("text", volume) == {"liver": TextPrompt("liver"), "spleen": TextPrompt("spleen")}
    boxes = toy_prompts("box", volume)["spleen"]
    assert isinstance(boxes, SliceBoxes)
    assert all(volume.data[0, z, y0:y1, x0:x1].size == 169 for z, y0, x0, y1, x1 in boxes.boxes)


def test_the_toy_counts_keep_the_rule_of_abstentions():
    counts, answers = toy_counts(4, (1, 3))
    assert answers.tolist() == [[True, True], [True, False], [True, True], [True, False]]
    patterns = np.arange(16)
    assert (counts[1, (patterns & 0b1010) > 0] == 0).all()
    assert counts[0].min() >= 0
    assert counts[1].sum() > 0


def test_the_participants_differ_in_everything():
    people = toy_participants()
    assert len({person.identifier for person in people.values()}) == len(people) == 12
    assert {person.sex for person in people.values()} == {"F", "M"}
    assert len({person.age for person in people.values()}) == 12


def test_nnunet_reads_the_plans():
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    for dimensions, name in ((2, "2d"), (3, "3d_fullres")):
        configuration = PlansManager(toy_plans(dimensions)).get_configuration(name)
        assert configuration.patch_size == [32, 64, 64][-dimensions:]
        assert len(configuration.pool_op_kernel_sizes) == 3
