"""A teacher that needs no weights, and how the step is asked for it."""

from __future__ import annotations

from collections.abc import Sequence

from nnkd.data.dataset import ImageFolder, RawDataset
from nnkd.plugin.teachers import Teacher
from nnkd.steps.predict_teachers import predict_teachers
from nnkd.teachers.jobs import TeacherJob, TeacherRequest
from nnkd.types import Entry, StepReport


class Threshold(Teacher):
    """Label by brightness, in whatever orientation it is shown."""

    devices = ("cpu",)

    def predict(self, volume, prompts):
        data = volume.data[0]
        return {"liver": (data > 130) & (data < 190), "spleen": data >= 190}


def job(teacher: type[Teacher], dataset: RawDataset, alias: str = "mine", **more) -> TeacherJob:
    entry = Entry("toy", "x:Y", "toy", licence="MIT")
    return TeacherJob(alias, teacher, entry, dataset.teachers_folder() / alias, **more)


def ask(jobs: Sequence[TeacherJob], dataset: RawDataset, images: ImageFolder | None = None, **more) -> StepReport:
    """Let them segment imagesTr, or other images."""
    return predict_teachers(TeacherRequest(jobs, dataset, images or dataset.images(), **more))
