"""One case through nnU-Net's preprocessing: images and label map by nnU-Net's own preprocessor, votes beside them.

Each teacher's label map goes whole through nnU-Net's transpose, crop and resampling and is split into bits afterwards:
bit by bit differs in up to 1 % of the voxels once three labels meet, because nnU-Net takes an arg-max over labels.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkd.data.dataset import DatasetSpec, ImageFolder
from nnkd.data.reading import readers
from nnkd.data.reading.geometry import Grid
from nnkd.errors import DatasetError, GeometryError, NnkdError, in_one_line
from nnkd.files import atomic
from nnkd.preprocessing.folders import whole_case
from nnkd.votes import bits
from nnkd.votes.ballots import Ballots
from nnkd.weights import pickles

if TYPE_CHECKING:
    from numpy.typing import NDArray

KILLED = (
    "A process was killed while preprocessing, most likely for want of memory. Run the command again with fewer than "
    "{number} processes (-np): it continues where it stopped."
)


@dataclass(frozen=True)
class Job:
    """What a worker process needs for one case and configuration.

    Attributes:
        case: nnU-Net's identifier.
        images: The case's image files.
        label: Its label map.
        teachers: Label map file by teacher, in bit order; None where the teacher did not segment this case.
        plans: nnU-Net's plans.
        configuration: Such as "2d".
        spec: The dataset.
        folder: DATA_IDENTIFIER, where nnU-Net looks for cases.
        votes_folder: Where the votes go.
        do_images: Whether images and label map are to be (re)done.
        do_votes: Whether the votes are.
    """

    case: str
    images: tuple[Path, ...]
    label: Path
    teachers: Mapping[str, Path | None]
    plans: Mapping[str, Any]
    configuration: str
    spec: DatasetSpec
    folder: Path
    votes_folder: Path
    do_images: bool
    do_votes: bool


def run(job: Job) -> NDArray[np.int64] | None:
    """Preprocess one case.

    Returns:
        (L, 2**K) int64 pattern counts on the raw grid, if votes were made.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(dict(job.plans))
    configuration = plans.get_configuration(job.configuration)
    if job.do_images:
        _images(job, plans, configuration)
    return _votes(job, plans, configuration) if job.do_votes else None


def attempt(job: Job) -> Any:
    """What `run` returns, or as an NnkdError why the case cannot be done; see `attempted`."""

    def work() -> Any:
        if job.do_images:
            check_files(ImageFolder.of_case(job.case, job.images, job.spec), job.label, job.case)
        return run(job)

    return attempted(work)


def attempted(work: Callable[[], Any]) -> Any:
    """What the work returns, or as an NnkdError why a case cannot be done.

    Raises:
        NnkdError: If no other case would fare better.
    """
    try:
        return work()
    except NnkdError as error:
        stop_if_full(error)
        return error
    except (RuntimeError, AssertionError, ValueError, OSError, EOFError) as error:  # nnU-Net's readers and preprocessor
        stop_if_full(error)
        return DatasetError(f"nnU-Net could not preprocess it ({in_one_line(error)}).")


def check_files(
    images: ImageFolder, label: Path, case: str
) -> tuple[NDArray[np.float32], NDArray[np.int32], dict[str, Any]]:
    """Read a case as nnU-Net would, which looks neither at label maps' values nor at their spacing.

    Returns:
        Images (C, Z, Y, X) float32, label map (Z, Y, X) integers, and the reader's properties.

    Raises:
        DatasetError: If a file is unreadable, a channel is missing, or the label map lies on another grid or holds
            values that dataset.json does not name.
    """
    array, image_grid, properties = images.read(case)
    label_map, label_grid, _ = images.spec.read_label_map(label)
    difference = label_grid.difference(image_grid)
    if difference:
        raise DatasetError(f"The label map '{label.name}' does not lie on its image's grid: {difference}. Correct it.")
    return array, label_map, properties


def stop_if_full(error: BaseException) -> None:
    """Raises:
    NnkdError: If the disk is full: no other case would fare better.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        raise NnkdError(
            f"The disk of nnUNet_preprocessed is full ({cause.strerror}). Nothing half-written remains; make room and "
            f"run the command again: it continues where it stopped."
        ) from error


def _images(job: Job, plans: Any, configuration: Any) -> None:
    with whole_case(job.folder, job.case) as target:
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case = partial(readers.preprocessed, preprocessor)
        preprocessor.run_case_save(
            str(target),
            [str(f) for f in job.images],
            str(job.label),
            plans,
            configuration,
            dict(job.spec.json),
        )


def _votes(job: Job, plans: Any, configuration: Any) -> NDArray[np.int64]:
    import blosc2
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    properties = pickles.load(job.folder / f"{job.case}.pkl")
    image, image_properties = job.spec.reader.read_images(job.images)
    outside = _outside(image, plans)
    raw = [_read(job, file, image, image_properties) for file in job.teachers.values()]
    done = [to_preprocessed_grid(m, outside, properties, plans, configuration) for m in raw]
    packed = bits.pack(done, job.spec)
    blocks, chunks = comp_blosc2_params(packed.shape, tuple(configuration.patch_size), packed.itemsize)
    with atomic(job.votes_folder / f"{job.case}.b2nd") as temporary:
        cparams = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "nthreads": 1}
        blosc2.asarray(packed, urlpath=str(temporary), chunks=chunks, blocks=blocks, cparams=cparams)
    return Ballots.of([label_map.astype(np.uint16) for label_map in raw]).count_patterns(job.spec)


def _read(job: Job, file: Path | None, image: np.ndarray, properties: Mapping[str, Any]) -> NDArray[np.int32]:
    if file is None:
        return np.zeros(image.shape[1:], dtype=np.int32)
    label_map, grid, _ = job.spec.read_label_map(file)
    difference = grid.difference(Grid.from_properties(image.shape[1:], properties))
    if difference:
        raise GeometryError(
            f"'{file.name}' of teacher '{file.parent.name}' does not lie on its image's grid: {difference}. "
            f"Run the teacher again with --overwrite."
        )
    return label_map


def _outside(image: np.ndarray, plans: Any) -> np.ndarray:
    """bool (Z, Y, X), transposed as nnU-Net does: voxels that nnU-Net takes for "no image here" and labels -1."""
    from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

    transposed = image.transpose([0, *(i + 1 for i in plans.transpose_forward)])
    return ~create_nonzero_mask(transposed)


def to_preprocessed_grid(
    label_map: NDArray[np.integer],
    outside: NDArray[np.bool_],
    properties: Mapping[str, Any],
    plans: Any,
    configuration: Any,
) -> NDArray[np.int16]:
    """A label map as nnU-Net's preprocessor would have it, its -1 read as 0.

    Args:
        label_map: (Z, Y, X) integers on the raw grid, in file order.
        outside: bool, transposed, see `_outside`.
        properties: The preprocessed case's properties (its .pkl).
        plans, configuration: nnU-Net's managers.

    Returns:
        (*S) int16 on the preprocessed grid.
    """
    from acvl_utils.cropping_and_padding.bounding_boxes import bounding_box_to_slice
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    order = plans.transpose_forward
    window = bounding_box_to_slice(properties["bbox_used_for_cropping"])
    seg = label_map.transpose(order)[window].astype(np.int16)
    # nnU-Net's arg-max sees the outside as a label of its own; without it, voxels at its border differ
    seg[(seg == 0) & outside[window]] = -1
    spacing = [properties["spacing"][i] for i in order]
    target = list(configuration.spacing)
    if len(target) < seg.ndim:
        target = [spacing[0], *target]  # 2D configurations keep the distance between slices
    new_shape = compute_new_shape(seg.shape, spacing, target)
    resampled = configuration.resampling_fn_seg(seg[None], new_shape, spacing, target)[0]
    return np.maximum(np.asarray(resampled), 0).astype(np.int16)
