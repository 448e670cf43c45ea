"""The teacher that is a trained nnU-Net: any model folder of nnU-Net v2, an own one or somebody else's.

The network sees each image as nnU-Net's reader gives it from its file (stored order, not the order that other teachers
see), with the model's own plans for cropping, normalisation and resampling, so that the answer is voxel for voxel what
nnUNetv2_predict writes for that file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkd.data.dataset import DatasetSpec
from nnkd.data.reading import readers
from nnkd.data.reading.geometry import Grid, Orientation
from nnkd.devices import check_device
from nnkd.errors import DatasetError, FolderError, GeometryError, NnkdError, SettingError
from nnkd.inference.predictor import load_predictor, predict_array, quiet
from nnkd.paths import room
from nnkd.plugin.teachers import Teacher
from nnkd.teachers.foreign import Map, read_map
from nnkd.types import Prompt, TeacherContext, Volume
from nnkd.weights import architectures
from nnkd.weights.checkpoints import TrainedModel

log = logging.getLogger("nnkd")
REORIENTED = "NibabelIOWithReorient"  # nnU-Net's reader that turns every image to RAS
NO_THIRD_AXIS = 999.0  # mm, nnU-Net's own


class NnUNetTeacher(Teacher):
    """Asks a trained nnU-Net model."""

    channels = "all"
    costs_only = frozenset({"licence", "allow_architecture"})
    no_network = "The nnunet teacher's network is the given model folder's: profile the trainer that made it with -tr."

    def __init__(
        self,
        context: TeacherContext,
        *,
        model: Path | None = None,
        folds: tuple[str, ...] | None = None,
        checkpoint: str = "checkpoint_final.pth",
        map: Map | Path | None = None,
        inputs: tuple[str, ...] | None = None,
        mirroring: bool = True,
        tile_step: float = 0.5,
        licence: str = "",
        allow_architecture: tuple[str, ...] = (),
    ):
        """Load the networks.

        Args:
            context: The labels, the device and how many threads.
            model: The folder TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and fold_X; required. A path,
                or one relative to nnUNet_results.
            folds: Which ones to average, such as 0,1 or all. None: every fold that has the checkpoint; fold_all only
                where there is no other.
            checkpoint: File name in each fold.
            map: Label -> name(s) or integer(s) of the model's labels, which are joined. JSON text, or the path of a
                JSON file. None: labels of equal names; the model abstains from the others.
            inputs: Channels of the dataset, by name or index, in the order of the model's channels. None: by name; a
                model of one channel takes a dataset's only channel whatever it is called.
            mirroring: Whether to average over mirrored images, as nnU-Net does unless told --disable_tta.
            tile_step: Step of the sliding window, as a share of it, in (0, 1].
            licence: The weights' licence, for the manifest; nnU-Net's model folders do not say.
            allow_architecture: Packages whose networks the model's plans may name, beside nnU-Net's and the plugins'.

        Raises:
            NnkdError: If the model is not whole, needs what is not there, or has no label or channel in common.
        """
        super().__init__(context)
        if not 0 < tile_step <= 1:
            raise SettingError(f"The nnunet teacher's tile_step is {tile_step:g}, but more than 0 and at most 1 works.")
        check_device(context.device)
        architectures.allow(allow_architecture)
        folder = _folder(model)
        self.model = TrainedModel.open(folder, _folds(folder, folds, checkpoint), checkpoint)
        self.spec = DatasetSpec.read(folder / "dataset.json")
        self.parts = _values(read_map(map, context.labels, "nnunet"), context.labels, self.spec, folder.name)
        self._map_file = map if isinstance(map, Path) else None
        self._wanted, self._licence = inputs, licence
        if context.dataset is not None:
            self._channels(context.dataset.spec.channel_names)  # fails before the networks are loaded
            self._warn(context.dataset.spec.channel_names)
        self._predictor = load_predictor(self.model, context.device, step_size=tile_step, mirroring=mirroring)
        _refuse_second_stage(self._predictor, folder.name)

    def weights(self) -> Sequence[Mapping[str, str]]:
        """The checkpoints."""
        return [{**found, "licence": self._licence} for found in self.model.weights()]

    def inputs(self, case: str) -> Mapping[str, Path]:
        """The map, if it is a file."""
        return {} if self._map_file is None else {"map": self._map_file}

    def predict(self, volume: Volume, prompts: Mapping[str, Prompt]) -> dict[str, NDArray[np.bool_]]:
        """Predict a case as nnUNetv2_predict would, and take its labels apart."""
        if volume.is_2d and len(self._predictor.configuration_manager.patch_size) == 3:
            raise DatasetError(
                f"'{volume.case}' is a 2D image, but '{self.model.folder.name}' was trained on volumes in 3D. "
                f"Take a model of the configuration 2d."
            )
        array, properties, orientation = self._read(volume)
        label_map = predict_array(self._predictor, array, properties, self.context.workers)
        label_map = orientation.to_lps(label_map)
        return {label: np.isin(label_map, values) for label, values in self.parts.items()}

    # --- the image as the model's reader gives it -----------------------------------------------------------------

    def _read(self, volume: Volume) -> tuple[np.ndarray, dict[str, Any], Orientation]:
        """The model's channels (C, Z, Y, X), the reader's properties, and what turns the answer to the volume."""
        chosen = self._channels(volume.channel_names)
        reader = self._reader(volume)
        if reader is None:
            return self._turned(volume, chosen)
        one_each = len(volume.files) == len(volume.channel_names)
        files = [volume.files[i] for i in chosen] if one_each else list(volume.files)
        array, properties = reader.read_images(files)
        array = array if one_each else array[chosen]
        orientation = Orientation(Grid.from_properties(array.shape[1:], properties))
        target = Grid(volume.shape, volume.spacing, volume.origin, np.asarray(volume.direction))
        difference = orientation.grid.difference(target)
        if difference:
            raise GeometryError(
                f"'{volume.case}' does not lie where nnkd sees it when the reader of '{self.model.folder.name}' "
                f"({reader.name}) reads it: {difference}. Its header may say two things (qform and sform of "
                f"NIfTI); save it again with one program."
            )
        return array, properties, orientation

    def _reader(self, volume: Volume) -> readers.Reader | None:
        """The model's own reader, or the one that knows the file's format; None if the volume itself is to be taken."""
        if not volume.files:
            return None
        own, file = self._own_reader, volume.files[0]
        if file.name.lower().endswith(tuple(own.supported_file_endings)):
            return readers.Reader(own())
        ending = "".join(file.suffixes[-2:]) if file.name.endswith(".gz") else file.suffix
        return None if own.__name__ == REORIENTED else readers.reader_of({"file_ending": ending}, file.name)

    @cached_property
    def _own_reader(self) -> Any:
        with quiet():
            return self._predictor.plans_manager.image_reader_writer_class

    def _turned(self, volume: Volume, chosen: Sequence[int]) -> tuple[np.ndarray, dict[str, Any], Orientation]:
        """A volume as the model's reader would have turned it: to RAS, or, for lack of a file, not at all."""
        signs = (-1.0, -1.0, 1.0) if self._own_reader.__name__ == REORIENTED else (1.0, 1.0, 1.0)
        orientation = Orientation(Grid(volume.shape, volume.spacing, (0.0, 0.0, 0.0), np.diag(signs)))
        spacing = (NO_THIRD_AXIS, *volume.spacing[1:]) if volume.is_2d else volume.spacing
        return orientation.to_file(volume.data[chosen]), {"spacing": list(spacing)}, orientation

    # --- channels -------------------------------------------------------------------------------------------------

    def _channels(self, names: Sequence[str]) -> list[int]:
        """Which of the dataset's channels the model sees, in its order."""
        wants, name = self.spec.channel_names, self.model.folder.name
        if self._wanted is not None:
            return _chosen(self._wanted, names, wants, name)
        there, asked = [n.casefold() for n in names], [n.casefold() for n in wants]
        if asked == there or (len(asked) == 1 and len(there) == 1):
            return list(range(len(wants)))
        if all(there.count(n) == 1 for n in asked):
            return [there.index(n) for n in asked]
        raise DatasetError(
            f"'{name}' wants {_counted(wants)}, but the dataset has {_counted(names)}. Say which to take with "
            f"inputs={','.join(['NAME'] * len(wants))}, in the model's order, or take another model."
        )

    def _warn(self, names: Sequence[str]) -> None:
        taken = [names[i] for i in self._channels(names)]
        pairs = zip(self.spec.channel_names, taken, strict=True)
        other = [f"{own}, given {given}" for own, given in pairs if own.casefold() != given.casefold()]
        if other:
            log.warning("'%s' was trained on other channels: %s", self.model.folder.name, "; ".join(other))


def _folder(model: Path | None) -> Path:
    """Where the model lies."""
    if model is None:
        raise SettingError(
            "The nnunet teacher has no model. Set its option model=FOLDER, a trained TRAINER__PLANS__CONFIGURATION."
        )
    if model.is_dir() or model.is_absolute():
        return model
    try:
        return room("nnUNet_results") / model
    except FolderError:
        return model


def _folds(folder: Path, asked: Sequence[str] | None, checkpoint: str) -> list[str]:
    """What is asked for, else what is there; as nnU-Net, fold_all is not averaged with the others."""
    if asked is not None:
        if not asked:
            raise SettingError("The nnunet teacher's folds are empty. Name some, such as 0,1, or leave the option out.")
        return list(dict.fromkeys(asked))
    there = TrainedModel.trained_folds(folder, checkpoint)
    numbered = [fold for fold in there if fold != "all"]
    return numbered or there or ["0"]


def _values(
    given: Mapping[str, Sequence[int | str]] | None, labels: Sequence[str], spec: DatasetSpec, model: str
) -> dict[str, list[int]]:
    """The model's integers by the dataset's label."""
    if given is None:
        given = {label: [label] for label in labels if label in spec.labels}
        if not given:
            raise SettingError(
                f"'{model}' has the labels {', '.join(spec.labels)} and the dataset {', '.join(labels)}, none in "
                f'common. Set the option map, such as map=\'{{"{labels[0]}": "{next(iter(spec.labels))}"}}\'.'
            )
        silent = [label for label in labels if label not in given]
        if silent:
            log.info("'%s' does not answer for %s", model, ", ".join(silent))
    foreground = spec.values - {0, spec.ignore_label}
    found: dict[str, list[int]] = {}
    for label, parts in given.items():
        strange = [part for part in parts if part not in (spec.labels if isinstance(part, str) else foreground)]
        if strange:
            there = ", ".join(f"{name} ({'+'.join(map(str, values))})" for name, values in spec.labels.items())
            raise SettingError(
                f"The nnunet teacher's map has {', '.join(map(str, strange))} for '{label}', but '{model}' has {there}."
            )
        found[label] = sorted({v for p in parts for v in (spec.labels[p] if isinstance(p, str) else (p,))})
    return found


def _chosen(wanted: Sequence[str], names: Sequence[str], wants: Sequence[str], model: str) -> list[int]:
    """The option inputs as indices."""
    found = []
    for text in wanted:
        if list(names).count(text) == 1:
            found.append(list(names).index(text))
        elif text.isdigit() and int(text) < len(names):
            found.append(int(text))
        else:
            raise SettingError(f"The nnunet teacher's inputs got '{text}', but the dataset has {_counted(names)}.")
    if len(found) != len(wants):
        raise SettingError(
            f"The nnunet teacher's inputs name {_counted(wanted)}, but '{model}' wants {_counted(wants)}."
        )
    return found


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} channel{'s' if len(names) != 1 else ''} ({', '.join(names)})"


def _refuse_second_stage(predictor: Any, model: str) -> None:
    previous = predictor.configuration_manager.previous_stage_name
    if previous is not None:
        raise NnkdError(
            f"'{model}' is the second stage of a cascade and needs the label maps of {previous}. Take a model of that "
            f"configuration or of 3d_fullres, or import what nnUNetv2_predict made (the teacher imported)."
        )
