"""Tests of nnkd.processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from nnkd import processes
from nnkd.errors import NnkdError
from nnkd.processes import Here, run_all, submitted, workers

KILLED = "One of {number} processes was killed at {job}."
PROGRAM = """
import os, sys, time
from multiprocessing import get_context
from nnkd.processes import end_with_parent

def work(pid):
    end_with_parent()
    pid.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = get_context("spawn")
    pid = context.Queue()
    context.Process(target=work, args=(pid,)).start()
    print(pid.get(), flush=True)
    time.sleep(600)
"""


def in_which(job):
    """This process' number, later for smaller jobs."""
    time.sleep((3 - job) / 10)
    return os.getpid()


def ends(job):
    if job == 1:
        os._exit(9)
    time.sleep(0.5)


@pytest.mark.parametrize(("number", "jobs"), [(0, [1, 2]), (1, [1, 2]), (4, [3]), (4, [])])
def test_one_process_is_this_one(number, jobs):
    assert list(run_all(in_which, jobs, number, killed=KILLED)) == [(job, os.getpid()) for job in jobs]


def test_here_nothing_is_done_before_it_is_asked_for():
    done = []
    results = run_all(done.append, [1, 2], 1, killed=KILLED)
    next(results)
    assert done == [1]


@pytest.mark.heavy
def test_order_is_kept_where_it_is_asked_for():
    jobs = [0, 1, 2, 3] * 3
    results = list(run_all(in_which, jobs, 3, killed=KILLED, in_order=True))
    assert [job for job, _ in results] == jobs
    assert 1 < len({process for _, process in results}) <= 3
    results = list(run_all(in_which, jobs, 3, killed=KILLED))
    assert sorted(job for job, _ in results) == sorted(jobs)


def test_a_job_that_fails_stops_all():
    with pytest.raises(ZeroDivisionError):
        list(run_all(one_over, [1, 0, 2], 2, killed=KILLED))


def one_over(job):
    return 1 / job


def test_a_killed_process_is_one_sentence():
    with pytest.raises(NnkdError, match=r"^One of 2 processes was killed at 1\.$"):
        list(run_all(ends, [1, 2, 3], 2, killed=KILLED, in_order=True))


def test_a_pool_that_broke_before_is_told_by_the_next_result():
    with workers(1) as broken:
        with pytest.raises(BrokenProcessPool):
            broken.submit(ends, 1).result()
        (job, future), *_ = submitted(broken, ends, [("b", (2,)), ("c", (3,))], ahead=1)
        assert job == "b"
        with pytest.raises(BrokenProcessPool):
            future.result()


def test_so_many_are_ahead():
    begun = []
    results = submitted(Here(), begun.append, ((n, (n,)) for n in range(9)), ahead=3)
    next(results)
    assert begun == [0, 1, 2, 3]
    assert [job for job, _ in results] == list(range(1, 9))


def test_the_bar_is_there_where_it_has_a_name(capfd):
    list(run_all(abs, [1], 1, killed=KILLED))
    list(run_all(abs, [], 1, killed=KILLED, title="empty"))
    assert capfd.readouterr().err == ""
    list(run_all(abs, [1], 1, killed=KILLED, title="named"))
    assert "named: 100%" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
        ended = True
        try:
            parent.communicate(timeout=30)  # until nobody holds its standard output any more
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            ended = False
    assert ended


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path):
    """Neither by a Python that is started, nor by those that it starts; PYTHONPATH still counts."""
    planted, kept = tmp_path / "cwd", tmp_path / "kept"
    planted.mkdir(), kept.mkdir()
    for module in ("nnkd", "tqdm", "multiprocessing", "json", "resource"):
        (planted / f"{module}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write('{module} ')\n")
    (kept / "mine_own.py").write_text("WORD = 'from PYTHONPATH'\n")
    code = (
        "import mine_own, os; from nnkd.processes import workers; from operator import add; "
        "print(mine_own.WORD, workers(1).submit(add, 1, 2).result(), sys.argv[1])"
    )
    path = os.pathsep.join([str(kept), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONSAFEPATH", None)
    run = subprocess.run(
        processes.python(code, "word"), cwd=planted, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stdout.split() == ["from", "PYTHONPATH", "3", "word"], run.stderr
    assert not (tmp_path / "RAN").exists()


def test_python_3_10s_way_of_starting_workers():
    seen = []
    spawn = processes._kept_out(lambda *words: seen.append(words))
    spawn("python", ["python", "-c", "from multiprocessing.spawn import spawn_main", "--multiprocessing-fork"], [3])
    assert seen[0][1][2].startswith("import sys; sys.path[:]")
    assert seen[0][1][2].endswith("import spawn_main")
