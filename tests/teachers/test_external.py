"""nnkd.teachers.external: real child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from toy import write_image

from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.errors import ProgramError, SettingError
from nnkd.teachers.external import Program, find_program, private_folder, write_nifti
from nnkd.types import Volume

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
SLEEPER = "import os, pathlib, time; pathlib.Path({file!r}).write_text(str(os.getpid())); time.sleep(600)"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds (a zombie whose parent is gone counts)."""
    for _ in range(200):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def pid_in(file: Path) -> int:
    """What a child wrote there, as soon as it is there."""
    for _ in range(400):
        if file.is_file() and file.read_text():
            return int(file.read_text())
        time.sleep(0.05)
    raise TimeoutError(file.name)


def test_a_program_that_works(tmp_path):
    Program("Mine").run(python(f"open({str(tmp_path / 'done')!r}, 'w').write('yes')"), tmp_path)
    assert (tmp_path / "done").read_text() == "yes"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(3)", "Mine failed with exit code 3 and said nothing"),
        ("import sys; print('a', file=sys.stderr); print('no weights.', file=sys.stderr); sys.exit(1)", "'no weights'"),
        ("import sys; print('out'); sys.exit(1)", "1: 'out'"),
        ("import sys; print('50%\\r100%', file=sys.stderr); sys.exit(1)", "'100%'"),
        ("import sys; sys.stderr.buffer.write(b'caf\\xe9\\n'); sys.exit(1)", "caf"),
        ("raise ValueError('wrong shape')", "'ValueError: wrong shape'"),
    ],
)
def test_a_failure_is_told_by_its_last_line(tmp_path, code, says):
    with pytest.raises(ProgramError, match=says):
        Program("Mine").run(python(code), tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_program_that_was_killed(tmp_path):
    with pytest.raises(ProgramError, match="killed by signal 9"):
        Program("Mine").run(python("import os; os.kill(os.getpid(), 9)"), tmp_path)


def test_the_private_folder_is_not_named(tmp_path):
    with pytest.raises(ProgramError, match=r"'\{folder\}/x is bad'") as caught:
        Program("Mine").run(python(f"raise SystemExit({str(tmp_path)!r} + '/x is bad')"), tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(ProgramError, match="cannot be started: 'prog'"):
        Program("Mine").run([str(tmp_path / "prog")], tmp_path)
    with pytest.raises(SettingError, match="program 'no_such_program' is not there"):
        find_program("no_such_program", "external")
    assert find_program(sys.executable, "external") == os.path.abspath(sys.executable)


@pytest.mark.heavy
@pytest.mark.parametrize("ends", ["hangs", "hangs in groups", "returns"])
def test_what_a_program_started_ends_with_it(tmp_path, ends):
    """A grandchild too, even in a session of its own; whether the program hangs, or ended and left it behind."""
    file = tmp_path / "pid"
    child = SLEEPER.format(file=str(file))
    if ends.startswith("hangs"):
        parent = PARENT.format(child=child)
        if ends == "hangs in groups":
            parent = parent.replace("])", "], start_new_session=True)")
        with pytest.raises(ProgramError, match=r"ended after 2\.5 s"):
            Program("Mine", timeout=2.5).run(python(parent), tmp_path)
    else:
        leave = PARENT.format(child=child).replace("run(", "Popen(")
        leave += f"; import pathlib, time\nwhile not pathlib.Path({str(file)!r}).exists(): time.sleep(.01)"
        Program("Mine").run(python(leave), tmp_path)
    assert gone(pid_in(file))


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_program(tmp_path, number):
    """Ctrl-C, and a cluster's time limit, at a whole process of ours that runs a program which started another."""
    file = tmp_path / "pid"
    inner = python(PARENT.format(child=SLEEPER.format(file=str(file))))
    code = (
        "from pathlib import Path\nfrom nnkd.teachers.external import Program, private_folder\n"
        f"with private_folder() as folder:\n    Path({str(tmp_path / 'where')!r}).write_text(str(folder))\n"
        f"    Program('Mine').run({inner!r}, folder)\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    pid = pid_in(file)
    ours.send_signal(number)
    assert ours.wait(30) != 0
    assert gone(pid)
    assert not Path((tmp_path / "where").read_text()).exists()


def test_it_runs_in_a_thread_too(tmp_path):
    """Where no signal handler may be set."""
    done = []
    thread = threading.Thread(target=lambda: done.append(Program("Mine").run(python("pass"), tmp_path)))
    thread.start()
    thread.join()
    assert done == [None]


def test_the_environment_is_restricted_and_can_be_extended(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("MY_MODEL", "m")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = Program("Mine", environment={"A": "1"}, inherit=("MY_MODEL",)).variables(tmp_path, 3)
    assert "SECRET_TOKEN" not in seen
    assert {n: seen[n] for n in ("A", "MY_MODEL", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TMPDIR")} == {
        "A": "1", "MY_MODEL": "m", "CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "3", "TMPDIR": str(tmp_path),
    }  # fmt: skip
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # nnkd's own, with which a script would not find what lies beside it
    everything = Program("Mine", inherit=("*",)).variables(tmp_path)
    assert everything["SECRET_TOKEN"] == "x"
    assert "PYTHONSAFEPATH" not in everything


def test_private_folders_are_private_and_go():
    with private_folder() as folder:
        (folder / "x").write_text("")
        if os.name == "posix":
            assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


@pytest.mark.parametrize("whole", [True, False])
def test_a_volume_is_written_without_loss_and_where_it_lies(tmp_path, whole):
    """Stored sagittally, flipped and oblique: what is written lies where the image lies, voxel by voxel."""
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 3000, (5, 7, 6)).astype(np.float32) + (0 if whole else 0.25)
    turned = sitk.VersorTransform((0.2, 0.5, 1.0), 0.3).GetMatrix()
    direction = np.asarray(turned).reshape(3, 3) @ np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 2.5, 1.1))
    image.SetOrigin((10.0, -20.0, 33.0))
    image.SetDirection((direction * np.sign(np.linalg.det(direction))).ravel().tolist())
    folder = tmp_path / "Dataset701_Toy"
    write_image(array, folder / "imagesTr" / "a_0000.nii.gz")
    sitk.WriteImage(image, str(folder / "imagesTr" / "a_0000.nii.gz"))
    write_dataset_json(folder, ["CT"], {"background": 0, "liver": 1}, ".nii.gz", 1)
    volume, orientation, _ = RawDataset(folder).images().volume("a")
    write_nifti(volume, tmp_path / "new" / "x.nii.gz")
    written = sitk.ReadImage(str(tmp_path / "new" / "x.nii.gz"))
    assert written.GetPixelID() == (sitk.sitkInt16 if whole else sitk.sitkFloat32)
    assert np.array_equal(orientation.to_file(sitk.GetArrayFromImage(written)), array)
    values = sitk.GetArrayFromImage(written)
    for index in np.ndindex(*values.shape):  # of what was written: one place in the world, one value
        place = written.TransformIndexToPhysicalPoint(index[::-1])
        found = image.TransformPhysicalPointToContinuousIndex(place)
        assert np.allclose(found, np.rint(found), atol=1e-4)
        assert array[tuple(round(i) for i in reversed(found))] == values[index]


def test_a_volume_with_holes_is_written(tmp_path):
    data = np.array([np.nan, np.inf, 1.0, 2.0], np.float32).reshape(1, 1, 2, 2)
    volume = Volume("a", data, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), np.eye(3), ("MR",))
    write_nifti(volume, tmp_path / "x.nii")
    written = np.asarray(nibabel.load(tmp_path / "x.nii").dataobj).T  # ITK would read 0 where there is no number
    assert np.array_equal(written, data[0], equal_nan=True)
