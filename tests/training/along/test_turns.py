"""nnkd.training.along.turns. What turns do in a training: tests/training/along/test_trainer.py."""

from __future__ import annotations

import pytest

from nnkd.plugin.registry import installed
from nnkd.training.along.gradients import SecondPass
from nnkd.training.along.turns import Turns


def test_a_turn_before_the_training_begins_is_said():
    scheduler = installed().load("auxiliary_scheduler", "mtl")(("Dataset801_A",))
    turns = Turns(scheduler, SecondPass.__new__(SecondPass), per_epoch=False)
    with pytest.raises(RuntimeError, match="before `begin`"):
        turns._loss((0,))
