"""Checkpoints of the SAM family: which model a file belongs to, and loading it.

SAM's ViT-B and MedSAM have the same tensors, and so have SAM 2.0's Hiera-T and MedSAM2: only a file's sha256 or how its
tensors are called can tell them apart. Without a file, the one in the store (`nnKD_weights`) is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from nnkd.errors import WeightsError
from nnkd.files import sha256
from nnkd.weights.published import fill, read
from nnkd.weights.store import Checkpoint, WeightStore, of_sha256, of_teacher

PUBLISHED_AS = {"sam vit_b": "a ViT-B SAM", "medsam": "MedSAM"}  # those whose tensors another model has, too
MEDSAM2 = "sam2_model."  # before the names of tensors that MedSAM2's training wrote
VIT_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
HIERA_SIZES = {(96, 12): "hiera_t", (96, 16): "hiera_s", (112, 24): "hiera_b+", (144, 48): "hiera_l"}
TWO_ONE = "no_obj_embed_spatial"  # a tensor of SAM 2.1 that SAM 2 lacks
DOUBTFUL = f"tensors are not called {MEDSAM2}..., as MedSAM2's training calls them: they may be SAM 2.0's"
AS_SAM21 = "tensors are called as SAM 2.1's are: whether they are MedSAM2's, only where the file came from tells"
log = logging.getLogger("nnkd")


def load_weights(
    network: nn.Module,
    file: Path | None,
    teacher: str,
    model: str,
    licence: str,
    doubt: str = "",
    variant: Mapping[str, str] | None = None,
) -> tuple[tuple[dict[str, str], ...], dict[str, str]]:
    """Load a checkpoint: flat, or under "model", with or without prefixes.

    Args:
        network: Takes the weights.
        file: The checkpoint; None: the published one in the store.
        teacher: The teacher's name.
        model: What the network is, such as "SAM vit_b".
        licence: Of the weights; empty: not known, except of published files.
        doubt: What to say of tensors that have the names of another model's.
        variant: Those of the teacher's options that decide which published file it is.

    Returns:
        The weights, for the manifest; and a note for it, where it is in doubt whose they are.

    Raises:
        WeightsError: If none is given, or it is of another model; the message names which one it looks like.
    """
    file, expected = (_stored(teacher, model, variant), of_teacher(teacher, variant)) if file is None else (file, None)
    state = read(file, model)
    medical = any(name.startswith(MEDSAM2) for name in state)
    if medical and teacher == "sam2":
        raise WeightsError(
            f"'{file.name}' is MedSAM2, not SAM 2 (its tensors are called {MEDSAM2}...). Use the teacher medsam2."
        )
    state = {name.removeprefix(MEDSAM2): tensor for name, tensor in state.items()}
    fill(network, state, file, model, looks_like=looks_like)
    digest = sha256(file)
    published = of_sha256(digest)
    _check(file, published, expected, teacher, model)
    licence = licence or next((known.licence for known in (published, expected) if known), "")
    used = {"name": file.name, "sha256": digest, "licence": licence}
    if medical or not doubt:
        return (used,), {}
    log.warning("%s: its %s", file.name, doubt)
    return (used,), {"weights": doubt}


def _stored(teacher: str, model: str, variant: Mapping[str, str] | None) -> Path:
    """The published checkpoint in the store."""
    found = WeightStore().located(teacher, variant)
    if found is not None:
        return found
    checkpoint = of_teacher(teacher, variant)
    fetch = f"Run nnKD_weights fetch {checkpoint.name}, or set" if checkpoint else "Set"
    raise WeightsError(
        f"The {teacher} teacher has no weights: nnkd brings none along. {fetch} its option weights=FILE to a "
        f"checkpoint of {model}."
    )


def _check(file: Path, published: Checkpoint | None, expected: Checkpoint | None, teacher: str, model: str) -> None:
    """Refuse what is published as another model, though its tensors are the same; and stored files that changed."""
    if published and published.teacher != teacher:
        variant = f" with model={published.options['model']}" if "model" in published.options else ""
        raise WeightsError(
            f"'{file.name}' is {PUBLISHED_AS.get(published.title, published.title)}, not {model}. Give {model}'s file, "
            f"or use the teacher {published.teacher}{variant}."
        )
    if expected and expected.sha256 and published != expected:
        raise WeightsError(
            f"'{file.name}' among the stored weights is not what is published under this name. Remove it and run "
            f"nnKD_weights fetch {expected.name}."
        )


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
        size = HIERA_SIZES.get((len(hiera), len(blocks)))
        version = "2.1" if TWO_ONE in state else "2.0"
        if not size:
            return ""
        mode = "video" if version == "2.1" else "image"
        other = f", or the teacher medsam2 with mode={mode}" if size == "hiera_t" else ""
        return f"SAM {version} {size}: use the teacher sam2 with model={size} and version={version}{other}"
    return ""
