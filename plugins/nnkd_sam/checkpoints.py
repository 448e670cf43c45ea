"""Checkpoints of the SAM family: which model a file belongs to, and loading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.published_weights import load

PREFIXES = ("module.", "sam2_model.")  # of training in parallel, and of MedSAM2's training
VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
HIERA_SIZES = {(96, 12): "hiera_t", (96, 16): "hiera_s", (112, 24): "hiera_b+", (144, 48): "hiera_l"}
TWO_ONE = "no_obj_embed_spatial"  # a tensor of SAM 2.1 that SAM 2 lacks


def load_weights(
    network: nn.Module, file: Path | None, teacher: str, model: str, licence: str
) -> tuple[dict[str, str], ...]:
    """Load a checkpoint: flat, or under "model", with or without prefixes.

    Args:
        network: Takes the weights.
        file: The checkpoint.
        teacher: The teacher's name.
        model: What the network is, such as "SAM vit_b".
        licence: Of the weights.

    Returns:
        For the manifest.

    Raises:
        WeightsError: If none is given, or it is of another model; the message names which one it looks like.
    """
    if file is None:
        raise WeightsError(
            f"The {teacher} teacher has no weights: nnkd brings none along. Set its option weights=FILE to a "
            f"checkpoint of {model}."
        )
    load(network, file, model, prefixes=PREFIXES, looks_like=looks_like)
    return ({"name": file.name, "sha256": sha256(file), "licence": licence},)


def looks_like(state: Mapping[str, Tensor]) -> str:
    """Which model of the family tensors belong to, and what to do; empty if that cannot be told."""
    if "image_encoder.patch_embed.seq.0.c.weight" in state:
        return "LiteMedSAM: use the teacher litemedsam"
    vit, hiera = (state.get(f"image_encoder.{part}patch_embed.proj.weight") for part in ("", "trunk."))
    if vit is not None and len(vit) in VIT_WIDTHS:
        name = VIT_WIDTHS[len(vit)]
        other = ", or the teacher medsam" if name == "vit_b" else ""
        return f"SAM {name}: use the teacher sam with model={name}{other}"
    if hiera is not None:
        start = "image_encoder.trunk.blocks."
        blocks = {name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)}
        name = HIERA_SIZES.get((len(hiera), len(blocks)))
        version = "2.1" if TWO_ONE in state else "2.0"
        return f"SAM {version} {name}: use the teacher sam2 with model={name} and version={version}" if name else ""
    return ""
