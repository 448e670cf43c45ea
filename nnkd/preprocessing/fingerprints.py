"""nnU-Net's fingerprint of a dataset: what it was made from, and without the voxels that are to be ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnkd.data.dataset import DatasetSpec, RawDataset
from nnkd.data.origins import Hashes, difference, of_settings
from nnkd.errors import FileError
from nnkd.files import read_json, sha256, write_json
from nnkd.preprocessing import case_origins

FINGERPRINT = "dataset_fingerprint.json"
RECORD = "dataset_fingerprint_inputs.json"


class Record:
    """What a fingerprint was made from: nnU-Net itself takes whatever lies there.

    Attributes:
        file: dataset_fingerprint_inputs.json.
    """

    def __init__(self, dataset: RawDataset, target: Path, cases: Sequence[str], extractor: str):
        """Every file is looked at.

        Args:
            dataset: In nnUNet_raw.
            target: nnUNet_preprocessed/DATASET.
            cases: Its training cases.
            extractor: nnU-Net's class.
        """
        self.file, self._fingerprint = target / RECORD, target / FINGERPRINT
        hashes, images, spec = Hashes(dataset.folder), dataset.images(), dataset.spec
        self._now = {"settings": of_settings([extractor, spec.ignore_label, len(spec.channel_names)])}
        for case in cases:
            for what, digest in case_origins.of_files(images.files(case), dataset.label_file(case), hashes).items():
                self._now[f"{what} of {case}"] = digest
        hashes.save()

    def holds(self) -> bool:
        """Whether the fingerprint that is there is of the dataset as it is now; True also if there is none."""
        if not self._fingerprint.is_file():
            return True
        try:
            made = read_json(self.file)
        except FileError:
            return False
        return isinstance(made, dict) and not difference(made, self._all())

    def write(self) -> None:
        """Note what the fingerprint that is there now was made from."""
        write_json(self.file, self._all())

    def _all(self) -> dict[str, str]:
        # with the fingerprint's own hash: nnU-Net's command may have made it from something else
        return {**self._now, "fingerprint": sha256(self._fingerprint)}


@contextmanager
def without_ignored(spec: DatasetSpec) -> Iterator[None]:
    """While nnU-Net extracts a fingerprint, label maps have background where the ignore label is.

    nnU-Net takes everything above 0 for foreground, so that voxels nobody looked at would decide how CT is normalised.
    Its worker processes get the reader as an argument; nothing in them is changed.
    """
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor as nnunets

    ignore = spec.ignore_label
    if ignore is None:
        yield
        return
    choose = nnunets.determine_reader_writer_from_dataset_json

    def choose_ours(*arguments: Any, **keywords: Any) -> Any:
        return partial(WithoutIgnored, choose(*arguments, **keywords), ignore)

    nnunets.determine_reader_writer_from_dataset_json = choose_ours
    try:
        yield
    finally:
        nnunets.determine_reader_writer_from_dataset_json = choose


class WithoutIgnored:
    """A reader of nnU-Net's whose label maps have no ignored voxels.

    Args:
        kind: The reader's class.
        ignore: The integer of voxels to leave out.
    """

    def __init__(self, kind: type, ignore: int):
        self._own, self._ignore = kind(), ignore

    def read_images(self, files: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """As nnU-Net's."""
        found: tuple[np.ndarray, dict[str, Any]] = self._own.read_images(files)
        return found

    def read_seg(self, file: str) -> tuple[np.ndarray, dict[str, Any]]:
        """As nnU-Net's, with 0 for the ignore label."""
        label_map, properties = self._own.read_seg(file)
        return np.where(label_map == self._ignore, 0, label_map).astype(label_map.dtype), properties
