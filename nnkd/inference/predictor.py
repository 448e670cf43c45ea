"""nnU-Net's predictor in this process: a trained model and an image's array -> a label map on the same grid."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnkd.devices import threads
from nnkd.errors import PredictionError, in_one_line
from nnkd.inference.label_maps import label_map
from nnkd.warned import pass_on_warnings
from nnkd.weights.checkpoints import TrainedModel

log = logging.getLogger("nnkd")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """nnU-Net's talk goes to the log, level DEBUG, instead of stdout; its warnings are passed on."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        pass_on_warnings("nnU-Net", said.getvalue())
        for line in filter(None, map(str.strip, said.getvalue().splitlines())):
            log.debug("nnU-Net: %s", line)


def load_predictor(
    model: TrainedModel,
    device: str,
    *,
    step_size: float = 0.5,
    mirroring: bool = True,
    on_device: bool = True,
    verbose: bool = False,
) -> Any:
    """nnU-Net's predictor with a model's networks in it.

    Args:
        model: The trained model.
        device: "cuda", "cpu" or "mps".
        step_size: Step of the sliding window, as a share of it.
        mirroring: Whether to average over mirrored images too, along the axes that the training allowed.
        on_device: Whether windows are gathered on the GPU.
        verbose: Whether nnU-Net says what it does.

    Returns:
        An nnUNetPredictor.

    Raises:
        WeightsError: If the checkpoints cannot be loaded, do not fit, or need a class that is not installed.
    """
    import torch

    with quiet():
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            tile_step_size=step_size,
            use_gaussian=True,
            use_mirroring=mirroring,
            perform_everything_on_device=on_device and device == "cuda",
            device=torch.device(device),
            verbose=verbose,
            verbose_preprocessing=verbose,
            allow_tqdm=False,
        )
        model.initialize(predictor)
    return predictor


def logits_of(predictor: Any, data: NDArray[np.float32]) -> NDArray[np.floating]:
    """Logits of a preprocessed case. Samples of a probabilistic network are averaged as probabilities
    (`nnkd.inference.samples`), everything else as nnU-Net does it.

    Args:
        predictor: nnU-Net's.
        data: (C, *S) float32, preprocessed; a cascade's previous stage stacked on it.

    Returns:
        (heads, *S) float16 or float32.
    """
    import torch

    from nnkd.inference import samples

    if samples.samples_of(predictor) is not None:
        return samples.answer(predictor, data).logits
    return predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu().detach().numpy()


def predict_array(
    predictor: Any, array: NDArray[np.float32], properties: Mapping[str, Any], workers: int = 1
) -> NDArray[np.integer]:
    """Preprocess, predict and bring back one image without any further process: what nnU-Net would write for it.

    Args:
        predictor: nnU-Net's, with a model in it that is no cascade's second stage.
        array: (C, Z, Y, X) float32 raw intensities, axes as the model's reader returns them.
        properties: What that reader returned; only "spacing" is looked at.
        workers: Threads.

    Returns:
        (Z, Y, X) integers as the model's dataset.json has them.

    Raises:
        PredictionError: If nnU-Net cannot predict it.
    """
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    try:
        with quiet(), threads(workers):
            preprocessor = configuration.preprocessor_class(verbose=False)
            data, _, crop = preprocessor.run_case_npy(
                array, None, dict(properties), plans, configuration, predictor.dataset_json
            )
            logits = logits_of(predictor, np.ascontiguousarray(data, dtype=np.float32))
            return label_map(logits, plans, configuration, predictor.label_manager, crop, workers)
    except (RuntimeError, ValueError, LookupError, AssertionError) as error:
        raise PredictionError(f"nnU-Net could not predict it: {in_one_line(error)}") from error
