"""nnkd.inference.runs; nnKD_predict's own tests see most of it."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnkd.errors import PredictionError
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
