"""Fixtures of all tests; and each of several test processes computes on cores of its own."""

from __future__ import annotations

import locale
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from processes import copies, nnunet_in_threads
from toy import toy_dataset

from nnkd import processes
from nnkd.data import origins
from nnkd.data.dataset import RawDataset

hypothesis.settings.register_profile("nnkd", deadline=None)  # a busy machine is no error
hypothesis.settings.load_profile("nnkd")


LOCALE = locale.setlocale(locale.LC_CTYPE)


def pytest_configure() -> None:
    """Threads of two processes that share a core wait for each other in busy loops: a convolution took five times as
    long as on one core of its own. Processes that tests start inherit the share."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")  # "gw1"; empty with -n 0
    if worker and hasattr(os, "sched_setaffinity"):  # not on macOS and Windows
        cores, number = sorted(os.sched_getaffinity(0)), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        own = cores[int(worker.removeprefix("gw")) % len(cores) :: number]
        os.sched_setaffinity(0, own)


@pytest.fixture(autouse=True, scope="session")
def quick_processes() -> Iterator[None]:
    """Processes that import torch for some seconds and then work for milliseconds: nnU-Net's pools, such as the two of
    every validation, are threads, and nnkd's own processes copies. What commands start in processes of theirs is real.
    """
    with pytest.MonkeyPatch.context() as patch:
        nnunet_in_threads(patch)
        patch.setattr(processes, "new_processes", copies)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_hashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hashes of toy files are not kept in the user's cache."""
    folder = tmp_path_factory.mktemp("hashes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(origins, "cache_folder", lambda: folder)
        yield


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """ITK leaves the C locale behind when it reads DICOM; files that later tests read would be taken for ASCII."""
    locale.setlocale(locale.LC_CTYPE, LOCALE)
    yield
    locale.setlocale(locale.LC_CTYPE, LOCALE)


@pytest.fixture
def nnunet_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnUNet_raw, nnUNet_preprocessed and nnUNet_results in an empty folder, which is returned."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name, value in (("nnUNet_compile", "f"), ("nnUNet_def_n_proc", "1"), ("nnUNet_n_proc_DA", "1")):
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def dataset(nnunet_folders: Path) -> RawDataset:
    """Dataset701_Toy: four 3D training cases, two of them labelled."""
    return toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset701_Toy")
