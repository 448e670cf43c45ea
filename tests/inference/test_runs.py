"""nnkd.inference.runs; nnKD_predict's own tests see most of it."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnkd.data.dataset import DatasetSpec
from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError, PredictionError
from nnkd.inference import runs
from nnkd.types import StepReport


class Answers(Executor):
    """Every job has the same outcome."""

    def __init__(self, outcome):
        self.outcome = outcome

    def submit(self, *_, **__):
        future = Future()
        if isinstance(self.outcome, Exception):
            future.set_exception(self.outcome)
        else:
            future.set_result(self.outcome)
        return future


@pytest.mark.parametrize("killed", ["preparing", "exporting"])
def test_a_killed_process_ends_the_run_and_is_no_fault_of_a_case(monkeypatch, killed):
    executors = {"preparing": Answers((None, {})), "exporting": Answers(None), killed: Answers(BrokenProcessPool())}
    left = iter((executors["preparing"], executors["exporting"]))
    monkeypatch.setattr(runs, "pool", lambda *_: next(left))
    monkeypatch.setattr(runs.Run, "_answer", lambda *_: None)
    manager = SimpleNamespace(plans={}, configuration={})
    predictor = SimpleNamespace(plans_manager=manager, configuration_manager=manager)
    images = SimpleNamespace(files=lambda case: [Path(case)], spec=None)
    folder = SimpleNamespace(folder=Path("out"), fail=lambda *_: pytest.fail("no case is at fault"))
    request = runs.Request(model=None, source=Path("in"), target=Path("out"), progress=False)
    run = runs.Run(request, [predictor], images, folder, StepReport())
    with pytest.raises(PredictionError, match="A process was killed while preparing or exporting"):
        run.do({"a": {}, "b": {}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image.SetOrigin((50.0, 0.0, 0.0)), "grid: origin"),
        (lambda image: image.SetSpacing((2.0, 1.0, 1.0)), "grid: spacing"),
        (lambda image: image.SetDirection((-1.0, 0, 0, 0, -1, 0, 0, 0, 1)), "grid: direction"),
        (lambda image: image.SetPixel(0, 0, 0, 7), "holds 7"),
        (lambda image: image.SetOrigin((0.05, 0.0, 0.0)), ""),
    ],
)
def test_a_label_map_of_the_previous_stage_lies_where_its_image_does(tmp_path, change, said):
    spec = DatasetSpec(
        {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}, ""
    )
    image, file = sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint8)), tmp_path / "c.nii.gz"
    grid = Grid((4, 5, 6), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3))
    change(image)
    sitk.WriteImage(image, str(file))
    if not said:
        assert runs._stage(file, spec.reader, grid, spec).shape == (1, 4, 5, 6)
        return
    with pytest.raises(DatasetError, match=f"'c.nii.gz' in -prev_stage_predictions .*{said}"):
        runs._stage(file, spec.reader, grid, spec)
