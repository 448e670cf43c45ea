"""SAT: run from a checkout, in its own environment, or what it wrote before."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnkd.data.intensities import kind_of_image
from nnkd.data.reading.geometry import Orientation
from nnkd.data.reading.nifti import NIFTI_ENDINGS
from nnkd.errors import DatasetError, GeometryError, ProgramError, SettingError, WeightsError
from nnkd.files import sha256
from nnkd.teachers.external import ExternalTeacher, Program, find_program, private_folder, write_nifti
from nnkd.teachers.foreign import grid_of
from nnkd.types import Prompt, TeacherContext, TextPrompt, Volume
from nnkd_sat import results
from nnkd_sat.geometry import Resampled, bring_back, grid_of_affine, loaded, locate, resample
from nnkd_sat.names import prompts_of
from nnkd_sat.results import Result

SCRIPT = "inference.py"
DATASET = "nnkd"  # a folder's name in SAT's output
MANY = 256  # texts at once
INHERITED = (
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "HTTPS_PROXY",
    "https_proxy", "NO_PROXY", "no_proxy", "NCCL_SOCKET_IFNAME",
)  # fmt: skip


class SATTeacher(ExternalTeacher):
    """Asks SAT, or reads a folder that it wrote.

    Source: Zhao et al., arXiv 2312.17183; github.com/zhaoziheng/SAT, inference.py.
    """

    prompt = "text"
    devices = ("cuda", "cpu")
    costs_only = frozenset({"timeout", "batch", "licence"})
    no_network = "SAT's network lives in a checkout of SAT: nnkd does not build it."

    def __init__(
        self,
        context: TeacherContext,
        *,
        repository: Path | None = None,
        python: str = "python",
        checkpoint: Path | None = None,
        text_encoder_checkpoint: Path | None = None,
        vision_backbone: str = "UNET-L",
        text_encoder: str = "ours",
        batch: int = 2,
        folder: Path | None = None,
        prompts: dict[str, str] | Path | None = None,
        modality: Literal["auto", "ct", "mri", "pet", "us"] = "auto",
        orientation: Literal["RAS", "ASR"] = "RAS",
        timeout: float | None = 7200.0,
        environment: dict[str, str] | None = None,
        licence: str = "",
    ):
        """Look whether everything is there.

        Args:
            context: The labels.
            repository: A checkout of SAT; required to run it.
            python: The interpreter of SAT's own environment.
            checkpoint: SAT's weights; required to run it.
            text_encoder_checkpoint: Its text encoder's weights; required to run it.
            vision_backbone: UNET-L for SAT-Pro, UNET for SAT-Nano; as the checkpoint wants.
            text_encoder: ours, medcpt or basebert; as the checkpoint wants.
            batch: Patches at once: 2 take 62 GB of GPU memory with SAT-Pro and 36 GB with SAT-Nano, 1 takes 34 and 24.
            folder: What SAT wrote before (its --rcd_dir); nothing is run then.
            prompts: Label -> text for SAT, where its name will not do. JSON text, or the path of a JSON file.
            modality: What SAT is told the image is. auto: by the channel's name in dataset.json.
            orientation: SAT's orientation_code: RAS; ASR for scans acquired sagittally, such as spines.
            timeout: Seconds a case may take; none: without end.
            environment: Variables to set for it, {"NAME": "value"}.
            licence: Of the weights; SAT states none.

        Raises:
            NnkdError: If something is missing, or prompts cannot be.
        """
        super().__init__(context, Program("SAT", timeout, environment or {}, INHERITED, repository))
        self.texts = prompts_of(context.labels, prompts)
        self._prompts_file = prompts if isinstance(prompts, Path) else None
        self.modality, self.orientation, self.folder = modality, orientation, folder
        self._written: Mapping[str, Sequence[Result]] = {}
        self._weights: list[dict[str, str]] = []
        self._asked = self.texts
        self._commit = "" if repository is None else _commit(repository)
        self._notes: dict[str, Any] = {}
        if folder is not None:
            self._written = _written(folder)
            return
        self._python = find_program(python, "sat")
        needed = {"checkpoint": checkpoint, "text_encoder_checkpoint": text_encoder_checkpoint}
        self._options = [
            *("--vision_backbone", vision_backbone, "--text_encoder", text_encoder),
            *("--max_queries", str(max(MANY, len(self.texts) + 1)), "--batchsize_3d", str(batch)),
        ]
        _check_repository(repository)
        for option, file in needed.items():
            there = _there(option, file)
            self._weights.append({"name": there.name, "sha256": sha256(there), "licence": licence})
            self._options += [f"--{option}", str(there.absolute())]

    def weights(self) -> Sequence[Mapping[str, str]]:
        """SAT's and its text encoder's; none where a folder is read."""
        return self._weights

    def notes(self) -> Mapping[str, object]:
        """Texts by label; SAT's commit; where its crop began and what was not certain."""
        commit = {"commit": self._commit} if self._commit else {}
        return {"prompts": self._asked, **commit, **self._notes}

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The prompts, if they are a file; the masks, where a folder is read."""
        found = {} if self._prompts_file is None else {"prompts": self._prompts_file}
        if self.folder is None:
            return found
        files = [file for result in self._of_case(case) for file in result.files()]
        return {**found, **{f"SAT {file.relative_to(self.folder).as_posix()}": file for file in files}}

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> Mapping[str, NDArray[np.bool_ | np.floating]]:
        """Run SAT, or find what it wrote; and undo its geometry."""
        self._notes, self._asked = {}, self._texts(prompts)
        if volume.is_2d:
            raise DatasetError(f"'{volume.case}' is a 2D image, but SAT wants volumes. Leave it out.")
        if self.folder is None:
            return super().predict(volume, prompts)
        result = self._only(volume)
        with private_folder() as folder:
            return self._taken_back(volume, self._seen(volume, folder), result)

    def _texts(self, prompts: Mapping[str, Prompt]) -> dict[str, str]:
        """Texts of the labels that are asked for; a prompt that is more than the label's name goes before the table."""
        if not prompts:
            return self.texts
        said = {label: prompt.text for label, prompt in prompts.items() if isinstance(prompt, TextPrompt)}
        return {
            label: self.texts[label]
            if text == label and label in self.texts
            else prompts_of([label], {label: text})[label]
            for label, text in said.items()
        }

    # --- running it -----------------------------------------------------------------------------------------------

    def prepare(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> list[str]:
        """Write the image and the line that speaks of it."""
        write_nifti(volume, folder / "image.nii.gz")
        resample(folder / "image.nii.gz", volume.case, self.orientation)  # fails before SAT is loaded
        line = {
            "image": str(folder / "image.nii.gz"),
            "label": list(self._asked.values()),
            "modality": self._modality(volume),
            "dataset": DATASET,
            "orientation_code": self.orientation,
        }
        (folder / "cases.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        return [
            *(self._python, "-m", "torch.distributed.run", "--nproc_per_node=1"),
            *("--master_port", str(_free_port()), SCRIPT),
            *("--rcd_dir", str(folder / "results"), "--datasets_jsonl", str(folder / "cases.jsonl")),
            *self._options,
        ]

    def collect(self, volume: Volume, prompts: Mapping[str, Prompt], folder: Path) -> dict[str, NDArray[np.bool_]]:
        """Read its masks."""
        found = results.find(folder / "results").get("image", [])
        missing = [text for text in self._asked.values() if not found or text not in found[0].masks]
        if missing:
            raise ProgramError(
                f"SAT ended without an error, but wrote no mask of {', '.join(missing[:3])} for '{volume.case}'. "
                f"Run its inference.py by hand to see more."
            )
        return self._taken_back(volume, folder / "image.nii.gz", found[0])

    # --- what it wrote before -------------------------------------------------------------------------------------

    def _of_case(self, case: str) -> list[Result]:
        found = results.of_case(self._written, case)
        if not found:
            where = "" if self.folder is None else f" in '{self.folder.name}'"
            raise DatasetError(
                f"SAT wrote nothing for '{case}'{where}: there is no folder seg_{case} or seg_{case}_0000. Run SAT on "
                f"it, or leave the case out."
            )
        return found

    def _only(self, volume: Volume) -> Result:
        """The result of the channel that is looked at."""
        found = self._of_case(volume.case)
        stems = {file.name.replace(".nii.gz", "") for file in volume.files} if len(volume.files) == 1 else set()
        chosen = [result for result in found if result.name in stems] or found
        if len(chosen) > 1:
            raise DatasetError(
                f"SAT wrote {len(chosen)} folders for '{volume.case}', such as seg_{chosen[0].name} and "
                f"seg_{chosen[1].name}. Set folder to one dataset's, or take the others away."
            )
        return chosen[0]

    def _seen(self, volume: Volume, folder: Path) -> Path:
        """The file that SAT read; another format than NIfTI is written anew."""
        if len(volume.files) == 1 and volume.files[0].name.lower().endswith(NIFTI_ENDINGS):
            return volume.files[0]
        write_nifti(volume, folder / "image.nii.gz")
        return folder / "image.nii.gz"

    # --- both -----------------------------------------------------------------------------------------------------

    def _taken_back(self, volume: Volume, file: Path, result: Result) -> dict[str, NDArray[np.bool_]]:
        """Masks on the volume's grid; a label without a file is left out."""
        there = {label: text for label, text in self._asked.items() if text in result.masks}
        there |= {label: label.lower() for label in self._asked if label not in there and label.lower() in result.masks}
        if not there:
            raise DatasetError(
                f"SAT wrote {', '.join(list(result.masks)[:5]) or 'no mask'} for '{volume.case}', but "
                f"{', '.join(self._asked.values())} were looked for. Set the option prompts."
            )
        _check_same_place(file, volume)
        masks = {label: result.mask(text) for label, text in there.items()}
        shapes = {mask.shape for mask in masks.values()}
        if len(shapes) > 1:
            raise GeometryError(f"SAT's masks of '{volume.case}' differ in size from each other. Run SAT on it again.")
        made, low = self._located(volume, file, shapes.pop(), result.own_image())
        return {label: bring_back(mask, made, low, grid_of(volume)) for label, mask in masks.items()}

    def _located(
        self, volume: Volume, file: Path, shape: tuple[int, ...], own: NDArray[np.float32] | None
    ) -> tuple[Resampled, tuple[int, ...]]:
        """The image as SAT resampled it, and where its crop began."""
        modality = self._modality(volume)
        made = resample(file, volume.case, self.orientation)
        try:
            low = locate(made, shape, own, modality, volume.case)
        except GeometryError as error:
            if own is None:
                raise
            made = resample(file, volume.case, self.orientation, doubt=True)
            try:
                low = locate(made, shape, own, modality, volume.case)
            except GeometryError:
                raise error from None
            self._notes["voxels"] = "SAT placed its voxels the other way than expected"
        if own is None:
            self._notes["not_verified"] = "SAT's own image is not there, so only sizes were compared"
        if low != made.low:
            self._notes["crop"] = {"expected": list(made.low), "found": list(low)}
        return made, low

    def _modality(self, volume: Volume) -> str:
        found = kind_of_image(volume.modality()) if self.modality == "auto" else self.modality
        if not found:
            raise SettingError(
                f"Whether '{volume.case}' is a CT, MR, PET or ultrasound image cannot be told from its channel's name "
                f"'{volume.channel_names[0]}'. Set modality=ct, mri, pet or us."
            )
        return found


def _written(folder: Path) -> dict[str, list[Result]]:
    if not folder.is_dir():
        raise SettingError(f"The sat teacher's folder '{folder.name}' does not exist. Correct its option folder.")
    found = results.find(folder)
    if not found:
        raise SettingError(
            f"The sat teacher's folder '{folder.name}' holds nothing that SAT wrote (DATASET/seg_CASE/LABEL.nii.gz). "
            f"Name the folder that was its --rcd_dir."
        )
    return found


def _check_repository(repository: Path | None) -> None:
    if repository is None:
        raise SettingError(
            "The sat teacher has no checkout of SAT. Set repository, python, checkpoint and text_encoder_checkpoint; "
            "or folder, to take in what SAT wrote before."
        )
    if not (repository / SCRIPT).is_file():
        raise SettingError(
            f"The sat teacher's repository '{repository.name}' has no {SCRIPT}. Name a checkout of "
            f"github.com/zhaoziheng/SAT."
        )


def _commit(repository: Path) -> str:
    """What a checkout stands at, without asking git; empty if it does not say."""
    try:
        head = (repository / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        reference = head.removeprefix("ref: ")
        return head if reference == head else (repository / ".git" / reference).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _there(option: str, file: Path | None) -> Path:
    if file is None or not file.is_file():
        named = "is not given" if file is None else f"'{file.name}' is not there"
        raise WeightsError(f"The sat teacher's {option} {named}. Download it from huggingface.co/zzh99/SAT and set it.")
    return file


def _check_same_place(file: Path, volume: Volume) -> None:
    """SAT's reader and nnU-Net's must agree on where a file's image lies."""
    image = loaded(file)
    there = Orientation(grid_of_affine(image.affine, image.shape[:3])).grid
    difference = there.difference(grid_of(volume))
    if difference:
        raise GeometryError(
            f"'{file.name}' of '{volume.case}' does not lie for SAT where nnkd sees it: {difference}. Its header may "
            f"say two things (qform and sform); save it again with one program, and run SAT again."
        )


def _free_port() -> int:
    """For torch.distributed's processes, which want one even where there is one process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
