"""Teachers that are other programs: run on one case at a time, in a private folder, with an end to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import SimpleITK as sitk

from nnkd.data.reading.itk import with_grid
from nnkd.errors import NnkdError, ProgramError, SettingError
from nnkd.plugin.teachers import Teacher
from nnkd.teachers.foreign import grid_of
from nnkd.types import Prompt, TeacherContext, Volume
from nnkd.warned import pass_on_warnings

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a program may see of this process's environment: where things are and how to compute, no credentials.
INHERITED = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "VIRTUAL_ENV", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA",
    "PROGRAMDATA",
)  # fmt: skip
INHERITED_BEGINNINGS = ("LC_", "CONDA_", "CUDA_", "NVIDIA_", "OMP_", "ITK_", "nnUNet_")
OURS = "PYTHONSAFEPATH"  # set for processes of nnkd's: a program finds what lies beside it
GRACE_S = 5.0  # between asking a program to end and ending it
SAID = ("stderr.txt", "stdout.txt")
TAIL, MOST_READ = 8192, 10**6  # bytes of what a program said, for its last line, and for its warnings


@dataclass(frozen=True)
class Program:
    """How another program is run.

    Attributes:
        name: What to call it in messages.
        timeout: Seconds after which it is ended; None: never.
        environment: Variables to set for it.
        inherit: Names of this process's variables that it sees beside the usual ones; "*": all of them.
        folder: Where it runs; None: where this process does.
    """

    name: str
    timeout: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inherit: Sequence[str] = ()
    folder: Path | None = None

    def run(self, arguments: Sequence[str], private: Path, threads: int = 1) -> None:
        """Run it to its end, without a shell. It and all processes it started are ended when it takes too long, and
        when this process is interrupted or told to terminate.

        Args:
            arguments: The program and its arguments.
            private: A folder of its own; temporary files of the program go there.
            threads: How many it is told to use (OMP_NUM_THREADS), unless that is set.

        Raises:
            ProgramError: If it cannot be started, fails, or takes too long. The message has its last line on stderr.
        """
        with _terminated_as_interrupted():
            child = self._start(arguments, private, threads)
            try:
                code = child.wait(self.timeout)
            except subprocess.TimeoutExpired:
                raise ProgramError(
                    f"{self.name} was ended after {self.timeout:g} s{self._last_words(private)}. Give it more time "
                    f"(option timeout, in seconds), or run it by hand to see why it hangs."
                ) from None
            finally:
                end_tree(child)
        if code:
            how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
            raise ProgramError(f"{self.name} {how}{self._last_words(private)}. Run it by hand to see more.")
        for name in SAID:
            pass_on_warnings(self.name, self._end_of(private / name, MOST_READ))

    def _start(self, arguments: Sequence[str], private: Path, threads: int) -> subprocess.Popen:
        new_group = 0
        if sys.platform == "win32":
            new_group = subprocess.CREATE_NEW_PROCESS_GROUP
        try:  # files, not pipes: a grandchild that lives on would keep a pipe open
            with open(private / SAID[0], "wb") as errors, open(private / SAID[1], "wb") as output:
                return subprocess.Popen(
                    list(arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    cwd=self.folder,
                    env=self.variables(private, threads),
                    start_new_session=sys.platform != "win32",
                    creationflags=new_group,
                )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ProgramError(
                f"{self.name} cannot be started: '{Path(arguments[0]).name}' ({why}). Install it, or correct its path."
            ) from error

    def variables(self, private: Path, threads: int = 1) -> dict[str, str]:
        """Its environment."""
        everything = "*" in self.inherit
        seen = {
            name: value
            for name, value in os.environ.items()
            if (everything and name != OURS)
            or name in INHERITED
            or name in self.inherit
            or name.startswith(INHERITED_BEGINNINGS)
        }
        temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(private))
        return {"OMP_NUM_THREADS": str(threads), **seen, **temporary, **self.environment}

    def _last_words(self, private: Path) -> str:
        """The last line it wrote to stderr, or else to stdout, in quotes."""
        for name in SAID:
            text = self._end_of(private / name, TAIL).replace(str(private), "{folder}")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return f": '{lines[-1][:300].rstrip('.')}'"
        return " and said nothing"

    @staticmethod
    def _end_of(file: Path, most: int) -> str:
        with open(file, "rb") as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - most))
            return said.read().decode("utf-8", errors="replace")


def end_tree(child: subprocess.Popen) -> None:
    """End a process that was started in a group (session) of its own, and all it started; nothing if all are gone."""
    below: list[psutil.Process] = []
    if child.poll() is None:
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(child.pid).children(recursive=True)
        _end_group(child, kill=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
    _end_group(child, kill=True)  # what the child left behind is still in its group
    child.wait()
    for process in below:  # but torchrun's workers, say, have groups of their own
        with contextlib.suppress(psutil.Error):
            process.kill()  # psutil remembers when each began: no other process of that number is killed


def _end_group(child: subprocess.Popen, kill: bool) -> None:
    """Ask a process and its group to end, or end them; on Windows, where there are no such groups, the process."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform != "win32":
            os.killpg(child.pid, signal.SIGKILL if kill else signal.SIGTERM)
        elif kill:
            child.kill()
        else:
            child.terminate()


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """While a child runs, SIGTERM (a cluster's time limit) unwinds this process, so that the child ends with it."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def unwind(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that only this user can read, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="nnkd-"))
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_program(name: str, teacher: str) -> str:
    """The path of a program that is named as on a command line.

    Raises:
        SettingError: If there is none, or it may not be run.
    """
    found = shutil.which(os.path.expanduser(name))
    if found is None:
        raise SettingError(
            f"The {teacher} teacher's program '{Path(name).name}' is not there or cannot be run. Install it, activate "
            f"its environment, or give its whole path."
        )
    return os.path.abspath(found)


def write_nifti(volume: Volume, file: Path, channel: int = 0) -> None:
    """Write one channel of a volume as NIfTI, in LPS order, on the volume's grid.

    Whole numbers that fit are written as int16, which many programs expect of CT; anything else as float32. Neither
    changes a value.

    Args:
        volume: The case.
        file: Target, .nii or .nii.gz.
        channel: Which one.

    Raises:
        NnkdError: If it cannot be written.
    """
    data = volume.data[channel]
    with np.errstate(invalid="ignore"):
        short = data.astype(np.int16)
    data = short if np.array_equal(short, data) else data.astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        sitk.WriteImage(with_grid(data, grid_of(volume)), str(file))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[-1]
        raise NnkdError(f"'{volume.case}' could not be written for another program ({why}). Make room.") from error


class ExternalTeacher(Teacher):
    """A teacher that is another program: what it reads is written to a private folder, it is run, and what it wrote is
    read back. A subclass says how its program is called and what its answer means."""

    no_network = "This teacher's network lives in another program: nnkd cannot count it."

    def __init__(self, context: TeacherContext, program: Program):
        super().__init__(context)
        self.program = program

    @abstractmethod
    def prepare(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> Sequence[str]:
        """Write what the program reads.

        Args:
            volume, prompts: As for `predict`.
            folder: Private to this case, empty.

        Returns:
            The program and its arguments.
        """

    @abstractmethod
    def collect(
        self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path
    ) -> Mapping[str, NDArray[np.bool_ | np.floating]]:
        """Read what the program wrote.

        Returns:
            As `predict`.

        Raises:
            NnkdError: If there is nothing, or not what was expected.
        """

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> Mapping[str, NDArray[np.bool_ | np.floating]]:
        """Write the case, run the program, read its masks."""
        with private_folder() as folder:
            arguments = self.prepare(volume, prompts, folder)
            self.program.run(arguments, folder, self.context.workers)
            return self.collect(volume, prompts, folder)
