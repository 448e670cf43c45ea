"""nnkd.teachers.claims: one process a case, whatever happens to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from nnkd.teachers import claims
from nnkd.teachers.claims import FOLDER, Claims

HOLD = """
import sys
from pathlib import Path
from nnkd.teachers.claims import Claims
held = Claims(Path(sys.argv[1])).take("a")
print(held is not None, flush=True)
sys.stdin.read()
"""


def file_of(folder, case):
    return folder / FOLDER / f"{case}.json"


def age(file, seconds):
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_a_case_belongs_to_one(tmp_path):
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        mine = ours.take("a")
        assert mine.holds()
        assert theirs.take("a") is None
        assert theirs.take("b") is not None
        ours.release("a")
        assert not mine.holds()
        assert theirs.take("a") is not None
    assert not (tmp_path / FOLDER).exists()


def test_only_one_of_many_gets_it(tmp_path):
    everybody = [Claims(tmp_path) for _ in range(8)]
    stale = Claims(tmp_path).take("a").file
    age(stale, 1000)
    start, got = threading.Barrier(8), []

    def try_it(one):
        start.wait()
        got.append(one.take("a"))

    threads = [threading.Thread(target=try_it, args=(one,)) for one in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in got) == 1
    for one in everybody:
        one.__exit__()


def test_a_dead_processes_claim_is_taken_over_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "True"
    with Claims(tmp_path) as ours:
        assert ours.take("a") is None
        process.kill()
        process.communicate()
        assert ours.take("a") is not None


def test_another_machines_claim_counts_until_nobody_renews_it(tmp_path):
    with Claims(tmp_path) as theirs, Claims(tmp_path) as ours:
        lost = theirs.take("a")
        content = json.loads(lost.file.read_text())
        assert set(content) == {"token", "process", "machine"}
        lost.file.write_text(json.dumps({**content, "machine": "another", "process": 1}))
        assert ours.take("a") is None
        age(lost.file, claims.STALE_S + 60)
        assert ours.take("a").holds()
        assert not lost.holds()
        theirs.release("a")  # it wakes up again: what is not its own any more stays
        assert file_of(tmp_path, "a").is_file()


def test_claims_are_renewed(tmp_path):
    with Claims(tmp_path, renewed_s=0.02) as ours:
        file = ours.take("a").file
        age(file, 1000)
        end = time.monotonic() + 20
        while time.time() - file.stat().st_mtime > 100 and time.monotonic() < end:
            time.sleep(0.02)
        assert time.time() - file.stat().st_mtime < 100


def test_a_claim_that_is_just_being_written_counts(tmp_path):
    with Claims(tmp_path) as ours:
        file_of(tmp_path, "a").parent.mkdir()
        file_of(tmp_path, "a").touch()
        assert ours.take("a") is None
        age(file_of(tmp_path, "a"), 1000)
        assert ours.take("a") is not None


def test_no_name_of_a_machine_is_written(tmp_path):
    with Claims(tmp_path) as ours:
        text = ours.take("a").file.read_text()
    assert socket.gethostname() not in text.replace(claims.machine(), "")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / FOLDER).write_text("in the way")
    with pytest.raises(claims.NnkdError, match="could not be claimed"), Claims(tmp_path) as ours:
        ours.take("a")
