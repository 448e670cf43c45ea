"""Tests of nnkd.plugin.students: the interface as trainers inherit it."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnkd.errors import WeightsError
from nnkd.plugin import registry
from nnkd.plugin.students import OwnData, Student
from nnkd.training.recipe_trainer import RecipeTrainer
from nnkd.training.trainer import nnUNetTrainerKD


def test_it_imports_neither_torch_nor_nnunet():
    code = "import sys, nnkd.plugin.students; sys.exit(bool({'torch', 'nnunetv2'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_everything_has_a_default(tmp_path):
    class Beside(nnUNetTrainer, Student):
        """One of nnU-Net's."""

    assert Beside.plan_values({}) == {}
    assert Beside.check_options({}, (8, 8)) is Beside.check_recipe(None, None) is None
    assert not any((Beside.takes_auxiliaries, Beside.takes_foreign_weights, Beside.one_gpu))
    with pytest.raises(WeightsError, match="reads no other weights"):
        Beside.foreign_weights(tmp_path / "file.pt", {})
    assert Beside.__init__ is nnUNetTrainer.__init__


@pytest.mark.parametrize("name", registry.installed().names("student"))
def test_every_student_of_ours_stands_on_the_tower(name):
    trainer = registry.installed().load("student", name)
    assert issubclass(trainer, RecipeTrainer)
    assert issubclass(trainer, OwnData) != issubclass(trainer, nnUNetTrainerKD)
    assert trainer.takes_auxiliaries == issubclass(trainer, nnUNetTrainerKD)
    assert pickle.loads(pickle.dumps(trainer)) is trainer
