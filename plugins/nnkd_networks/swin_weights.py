"""Weights of Swin UNETR that others trained, under the names of our network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nnkd.errors import WeightsError
from nnkd.weights import published

MODEL = "Swin UNETR"
BODY, TRANSFORMER = "body.", "swinViT."
PREFIXES = ("module.", "model.", "swin_unetr.")
WRAPPERS = ("state_dict", "model")
FIRST = "patch_embed.proj.weight"
SEE_THE_IMAGE = (f"{TRANSFORMER}{FIRST}", "encoder1.layer.conv1.conv.weight", "encoder1.layer.conv3.conv.weight")
FIXED = "relative_position_index"  # follows from the window


def read(file: Path, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights for our network out of a file of MONAI's: a whole Swin UNETR, or its transformer after self-supervised
    training (model_swinvit.pt, ssl_pretrained_weights.pth), in the names that either had over the years.

    Layers that see the image are fitted to another number of channels: the sum over the file's channels, divided by
    ours, so that equal channels give what one gave. The last layer is left out, as nnU-Net does.

    Args:
        file: Of torch, read with weights_only=True, or safetensors.
        network: Our network's tensors by name.

    Returns:
        All tensors of the transformer, and of the rest those that the file has, by our names.

    Raises:
        WeightsError: If it is no Swin UNETR, or one of another size or for other images.
    """
    given = {}
    for name, tensor in published.read(file, MODEL, PREFIXES, WRAPPERS).items():
        renamed = _renamed(name)
        if f"{BODY}{renamed}" in network:
            given[renamed] = tensor
    wanted = [n.removeprefix(BODY) for n in network if n.startswith(f"{BODY}{TRANSFORMER}") and FIXED not in n]
    missing = [name for name in wanted if name not in given]
    if missing:
        raise WeightsError(
            f"'{file.name}' is no checkpoint of {MODEL}: {len(missing)} of its transformer's {len(wanted)} tensors "
            f"are missing, such as {missing[0]}. Correct -pretrained_weights."
        )
    first = f"{TRANSFORMER}{FIRST}"  # it tells best what does not fit
    return {
        f"{BODY}{name}": _fitted(name, given[name], network[f"{BODY}{name}"], file)
        for name in sorted(given, key=lambda name: name != first)
        if FIXED not in name
    }


def _renamed(name: str) -> str:
    """A tensor's name in MONAI's network of today; other names stay, and are no tensors of it then."""
    name = re.sub(r"^encoder\.(layers\d\.0\.)0\.", r"\1", name)  # of the disruptive autoencoder
    name = re.sub(r"^(encoder|swin_vit)\.", "", name)
    if name.startswith(("patch_embed.", "layers")):
        name = f"{TRANSFORMER}{name}"
    return re.sub(r"\.mlp\.fc(\d)\.", r".mlp.linear\1.", name)


def _fitted(name: str, tensor: Tensor, ours: Tensor, file: Path) -> Tensor:
    if tensor.shape == ours.shape:
        return tensor
    same_but_channels = tensor.ndim == ours.ndim and (tensor.shape[0], *tensor.shape[2:]) == (
        ours.shape[0],
        *ours.shape[2:],
    )
    if name in SEE_THE_IMAGE and same_but_channels:
        return (tensor.sum(1, keepdim=True) / ours.shape[1]).expand(ours.shape).to(ours.dtype, copy=True)
    hint = "choose another file"
    if name == f"{TRANSFORMER}{FIRST}" and tensor.ndim != ours.ndim:
        hint = f"it was trained on {'volumes' if tensor.ndim == 5 else 'slices'}: choose such a configuration"
    elif name == f"{TRANSFORMER}{FIRST}":
        hint = f"set feature_size={tensor.shape[0]}"
    raise WeightsError(
        f"'{file.name}' does not fit this {MODEL}: {name} has the shape {tuple(tensor.shape)}, but "
        f"{tuple(ours.shape)} is expected; {hint}."
    )
