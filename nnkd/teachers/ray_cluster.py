"""Labelling on a Ray cluster: actors that hold a loaded teacher, cases as tasks, again elsewhere if one is lost."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnkd import limits
from nnkd.data.predictions import Manifest
from nnkd.devices import cores
from nnkd.errors import BrokenPluginError, NnkdError, in_one_line
from nnkd.files import remove_leftovers
from nnkd.paths import ROOMS
from nnkd.teachers.claims import Claim, Claims
from nnkd.teachers.jobs import TeacherJob, Work
from nnkd.teachers.runs import Outcome, RunningTeacher
from nnkd.teachers.sharing import POLL_S

TRIES = 3  # of a case whose worker is lost: a case may be what ends it
PATIENCE_S = 600.0  # without any worker
STORE_BYTES = 100 * 2**20  # Ray's own memory for objects: only names and hashes pass through it
PASSED_ON = (*ROOMS, "nnKD_cache", "NNKD_DISABLED_PLUGINS", *limits.VARIABLES)  # variables that workers elsewhere need
log = logging.getLogger("nnkd")


class Worker:
    """What an actor is: a teacher, started where the actor lives."""

    def __init__(self, environment: Mapping[str, str], job: TeacherJob, work: Work):
        os.environ.update(environment)
        self._failure = ""
        try:
            self._teacher = RunningTeacher.start(job, work)
        except NnkdError as error:
            self._failure = str(error)

    def header(self) -> Manifest | str:
        """The manifest's header, or why there is no teacher."""
        return self._failure or self._teacher.header

    def do(self, case: str, claim: Claim) -> Outcome | str:
        """See `RunningTeacher.do`; a text if all must stop."""
        try:
            return self._teacher.do(case, claim)
        except NnkdError as error:
            return str(error)


@dataclass
class RayTeacher:
    """A teacher on a cluster.

    Attributes:
        job: What it runs for.
        work: What it shares with others.
        header: What its manifest begins with.
        address: The cluster's; None: one on this machine.
    """

    job: TeacherJob
    work: Work
    header: Manifest
    address: str | None

    @classmethod
    def start(cls, job: TeacherJob, work: Work, address: str | None) -> RayTeacher:
        """Start the teacher once, on any node, for its manifest's header.

        Raises:
            NnkdError: If Ray is not installed or cannot be reached, or the teacher cannot be started.
        """
        with _Cluster(job, work, address) as cluster:
            return cls(job, work, cluster.header(), address)

    def do_all(self, cases: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
        """Do cases on all nodes; see `nnkd.teachers.sharing.do_here`.

        Raises:
            NnkdError: If the disk is full, or no node can hold a worker.
        """
        with Claims(self.job.folder) as claims, _Cluster(self.job, self.work, self.address) as cluster:
            yield from _Run(self, cluster, claims, deque(cases)).outcomes()


@dataclass
class _Cluster:
    """A connection, and the actors that were made through it; both end with it."""

    job: TeacherJob
    work: Work
    address: str | None
    actors: list[Any] = field(default_factory=list)

    def __enter__(self) -> _Cluster:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        try:
            import ray
        except ImportError as error:
            raise BrokenPluginError(
                f'--executor ray needs the package ray ({error}). Install it: pip install "nnkd[ray]".'
            ) from error
        self.ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            _connect(ray, self.address)
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors:
            self.ray.kill(actor)
        if self._ours:
            self.ray.shutdown()

    def actor(self) -> Any:
        """One more worker; it exists once a node has room for it."""
        share = {"num_gpus": 1, "num_cpus": 0} if self.on_gpu else {"num_gpus": 0, "num_cpus": self.work.workers}
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        made = self.ray.remote(Worker).options(**share, max_restarts=0).remote(environment, self.job, self.work)
        self.actors.append(made)
        return made

    @property
    def on_gpu(self) -> bool:
        return self.work.device == "cuda" and "cuda" in self.job.teacher.devices

    def slots(self) -> int:
        """How many workers the nodes have room for."""
        there = self.ray.cluster_resources()
        if self.on_gpu:
            return int(there.get("GPU", 0))
        return int(there.get("CPU", 0)) // self.work.workers

    def room(self) -> int:
        """`slots`, at least one.

        Raises:
            NnkdError: If there is no room for any worker.
        """
        found = self.slots()
        if found < 1:
            what = "a GPU (or say -device cpu)" if self.on_gpu else f"{self.work.workers} CPU cores (-np)"
            raise NnkdError(f"No worker has room in the Ray cluster: each needs {what}, and no node offers that.")
        return found

    def header(self) -> Manifest:
        """What the teacher's manifest begins with."""
        self.room()
        found = self.ray.get(self.actor().header.remote())
        if isinstance(found, str):
            raise NnkdError(found)
        return found


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        if address is None:
            ray.init("local", num_cpus=cores(), include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at --ray_address {address}" if address else "on this machine"
        why = in_one_line(error)
        raise NnkdError(f"Ray cannot be reached {where} ({why}). Check the address with 'ray status'.") from error


@dataclass
class _Run:
    """Who does what at the moment."""

    teacher: RayTeacher
    cluster: _Cluster
    claims: Claims
    todo: deque[str]
    met: list[str] = field(default_factory=list)  # cases that other processes are at work on
    starting: dict[Any, Any] = field(default_factory=dict)  # workers by the answer they owe
    running: dict[Any, tuple[Any, str]] = field(default_factory=dict)  # workers and cases by answer
    idle: list[Any] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)

    def outcomes(self) -> Iterator[tuple[str, Outcome]]:
        if not self.todo:
            return
        for _ in range(min(self.cluster.room(), len(self.todo))):
            self._add_worker()
        alone_since = time.monotonic()
        while self.todo or self.met or self.running:
            self._hand_out()
            waited = self.running or self.starting
            answers = self.cluster.ray.wait([*self.running, *self.starting], timeout=POLL_S)[0] if waited else []
            for answer in answers:
                yield from self._take(answer)
            if self.running or self.idle:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > PATIENCE_S:
                raise NnkdError("No node of the Ray cluster had room for a worker for ten minutes. Run it again later.")
            if self.met and not self.todo and not answers:
                if not waited:
                    time.sleep(POLL_S)
                self.todo.extend(self.met)
                self.met.clear()

    def _add_worker(self) -> None:
        actor = self.cluster.actor()
        self.starting[actor.header.remote()] = actor

    def _hand_out(self) -> None:
        while self.idle and self.todo:
            case = self.todo.popleft()
            claim = self.claims.take(case)
            if claim is None:
                self.met.append(case)
                continue
            actor = self.idle.pop()
            self.running[actor.do.remote(case, claim)] = (actor, case)

    def _take(self, answer: Any) -> Iterator[tuple[str, Outcome]]:
        """An answer of a worker, or the news that it is gone."""
        exceptions = self.cluster.ray.exceptions
        actor, case = self.running.pop(answer, (None, ""))
        actor = self.starting.pop(answer, actor)
        try:
            said = self.cluster.ray.get(answer)
        except (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError):
            log.warning("A worker was lost%s", f" while it did {case}" if case else "")
            self._add_worker()
            if case:
                yield from self._again(case)
            return
        if isinstance(said, str):
            raise NnkdError(said)
        self.idle.append(actor)
        if case:
            self.claims.release(case)
            if said.kind == "lost":
                self.met.append(case)
            else:
                yield case, said

    def _again(self, case: str) -> Iterator[tuple[str, Outcome]]:
        self.losses[case] += 1
        remove_leftovers(self.teacher.job.folder, of=case)  # nobody else writes it: the claim is still held
        if self.losses[case] < TRIES:
            self.claims.release(case)
            self.todo.append(case)
            return
        reason = f"its worker was lost {TRIES} times, probably for lack of memory; see --max_memory"
        self.teacher.job.predictions.fail(case, reason)
        self.claims.release(case)
        yield case, Outcome("failed", reason)
