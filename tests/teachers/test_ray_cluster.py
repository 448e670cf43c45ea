"""nnkd.teachers.ray_cluster: a real Ray cluster of two nodes on this machine, one of which is killed at work."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from extras import needs
from toy import toy_dataset

from nnkd.data.predictions import PredictionFolder
from nnkd.errors import NnkdError
from nnkd.files import sha256
from nnkd.steps.predict_teachers import predict_teachers
from nnkd.teachers.jobs import TeacherJob, TeacherRequest
from nnkd.types import Entry

pytestmark = [needs("ray"), pytest.mark.heavy]
MIB = 2**20


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each; the second one can be removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1] / "toys"), os.environ.get("PYTHONPATH", "")])
        )
        from ray.cluster_utils import Cluster

        node = {"num_cpus": 1, "object_store_memory": 80 * MIB, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=node)
        del node["include_dashboard"]
        made.second = made.add_node(**node)
        made.wait_for_nodes()
        yield made
        made.shutdown()


def job(dataset, **options) -> TeacherJob:
    from slow_teacher import SlowTeacher

    entry = Entry("slow", "slow_teacher:SlowTeacher", "toy", licence="MIT")
    return TeacherJob("slow", SlowTeacher, entry, dataset.teachers_folder() / "slow", options)


def lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.is_file() else []


def predict(dataset, cluster, log, **options):
    one = job(dataset, log=str(log), **options)
    where = {"executor": "ray", "ray_address": cluster.address, "device": "cpu"}
    return predict_teachers(TeacherRequest([one], dataset, dataset.images(), **where))


def test_a_worker_that_dies_each_time_costs_one_case(tmp_path, cluster):
    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=4)
    report = predict(dataset, cluster, tmp_path / "log", seconds=0.05, fatal="toy_001")
    assert report.done == ["toy_000", "toy_002", "toy_003"]
    assert [f.case for f in report.failures] == ["toy_001"]
    assert "its worker was lost 3 times" in report.failures[0].reason
    assert Counter(case for case, _ in lines(tmp_path / "log"))["toy_001"] == 3
    assert "toy_001" in PredictionFolder(dataset.teachers_folder() / "slow").manifest().failures


def test_a_teacher_that_cannot_start_says_so_in_its_own_words(tmp_path, cluster):
    from slow_teacher import SlowTeacher

    dataset = toy_dataset(tmp_path / "Dataset701_Toy", training=1)
    entry = Entry("slow", "x:Y", "toy", licence="MIT")
    broken = TeacherJob("slow", SlowTeacher, entry, dataset.teachers_folder() / "slow", {"sekonds": 1})
    where = {"executor": "ray", "ray_address": cluster.address, "device": "cpu"}
    with pytest.raises(NnkdError, match=r"The teacher 'slow' could not be started .*sekonds"):
        predict_teachers(TeacherRequest([broken], dataset, dataset.images(), **where))
    one = job(dataset, log=str(tmp_path / "log"))
    with pytest.raises(NnkdError, match=r"each needs 64 CPU cores \(-np\), and no node offers that"):
        predict_teachers(TeacherRequest([one], dataset, dataset.images(), workers=64, **where))
    assert not dataset.teachers_folder().exists()


def test_a_node_dies_midway(tmp_path, cluster):
    """Every case is done, none twice, and nothing is half-written. The last test: the cluster has one node then."""
    dataset, log = toy_dataset(tmp_path / "Dataset701_Toy", training=12), tmp_path / "log"
    doomed = cluster.second.node_id

    def kill():
        end = time.monotonic() + 120
        while sum(node == doomed for _, node in lines(log)) < 2 and time.monotonic() < end:
            time.sleep(0.02)
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    report = predict(dataset, cluster, log)
    killer.join()
    cases = dataset.images().cases()
    assert sorted(report.done + report.skipped) == cases  # skipped: written, but its node died before it could say so
    begun = Counter(case for case, _ in lines(log))
    twice = [case for case in cases if begun[case] > 1]
    assert len(twice) <= 1  # what was in the making on the lost node
    assert all(lines(log)[[case for case, _ in lines(log)].index(case)][1] == doomed for case in twice)
    assert {node for _, node in lines(log)} > {doomed}  # both nodes took part
    folder = PredictionFolder(dataset.teachers_folder() / "slow")
    manifest = folder.manifest()
    assert folder.cases() == cases
    assert all(manifest.cases[case].output == sha256(folder.file(case, ".nii.gz")) for case in cases)
    assert not manifest.failures
    assert [p.name for p in folder.folder.iterdir() if p.name.startswith(".writing") or p.name == ".claims"] == []
    assert predict(dataset, cluster, log).skipped == cases
