"""nnkd: distil a mixture of segmentation foundation models, on unlabelled scans, into small nnU-Net students.

What a plugin needs is here. Importing this imports neither torch nor nnunetv2: bases that need them, or pydantic, are
imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nnkd.errors import NnkdError
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.plugin.hooks import hookimpl
from nnkd.plugin.networks import Architecture, BoxGraphs, PaperGraph
from nnkd.plugin.samplers import Sampler, WeighingSampler
from nnkd.plugin.schedulers import AuxiliaryScheduler
from nnkd.plugin.students import OwnData, Student
from nnkd.plugin.teachers import BoxTeacher, Teacher
from nnkd.types import Entry, Participant, Prompt, SliceBoxes, TeacherContext, TextPrompt, Volume

if TYPE_CHECKING:
    from nnkd.inference.probabilistic import ProbabilisticNetwork
    from nnkd.plugin.options import parse_options
    from nnkd.teachers.external import ExternalTeacher
    from nnkd.teachers.slice_teacher import SliceTeacher
    from nnkd.training.recipe_trainer import RecipeTrainer
    from nnkd.training.trainer import nnUNetTrainerKD

__version__ = "0.1.0"

__all__ = [
    "Aggregator",
    "Architecture",
    "AuxiliaryScheduler",
    "BoxGraphs",
    "BoxTeacher",
    "Entry",
    "ExternalTeacher",
    "JointAggregator",
    "NnkdError",
    "OwnData",
    "PaperGraph",
    "Participant",
    "ProbabilisticNetwork",
    "Prompt",
    "RecipeTrainer",
    "Sampler",
    "SliceBoxes",
    "SliceTeacher",
    "Student",
    "Teacher",
    "TeacherContext",
    "TextPrompt",
    "Volume",
    "WeighingSampler",
    "__version__",
    "hookimpl",
    "nnUNetTrainerKD",
    "parse_options",
]

ON_FIRST_USE = {
    "ExternalTeacher": "nnkd.teachers.external",
    "ProbabilisticNetwork": "nnkd.inference.probabilistic",
    "RecipeTrainer": "nnkd.training.recipe_trainer",
    "SliceTeacher": "nnkd.teachers.slice_teacher",
    "nnUNetTrainerKD": "nnkd.training.trainer",
    "parse_options": "nnkd.plugin.options",
}


def __getattr__(name: str) -> Any:
    """A base that is heavy to import."""
    if name not in ON_FIRST_USE:
        raise AttributeError(f"module 'nnkd' has no attribute '{name}'")
    return getattr(import_module(ON_FIRST_USE[name]), name)
