"""nnkd: distil a mixture of segmentation foundation models, on unlabelled scans, into small nnU-Net students.

What a plugin needs is here. Importing this imports neither torch nor nnunetv2.
"""

from nnkd.errors import NnkdError
from nnkd.plugin.aggregators import Aggregator, JointAggregator
from nnkd.plugin.hooks import hookimpl
from nnkd.plugin.samplers import Sampler, WeighingSampler
from nnkd.plugin.schedulers import AuxiliaryScheduler
from nnkd.plugin.teachers import BoxTeacher, Teacher
from nnkd.types import Entry, Prompt, SliceBoxes, TeacherContext, TextPrompt, Volume

__version__ = "0.1.0"

__all__ = [
    "Aggregator",
    "AuxiliaryScheduler",
    "BoxTeacher",
    "Entry",
    "JointAggregator",
    "NnkdError",
    "Prompt",
    "Sampler",
    "SliceBoxes",
    "Teacher",
    "TeacherContext",
    "TextPrompt",
    "Volume",
    "WeighingSampler",
    "__version__",
    "hookimpl",
]
