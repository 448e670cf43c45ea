"""What --set can change in a training on slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from nnkd.training.options import AtLeastOne, Positive
from nnkd_litemedsam import model_files
from nnkd_litemedsam.slices.loader import BoxOf

EncoderName = Literal["tinyvit", "repvit", "swin"]
File = Annotated[str, AfterValidator(model_files.portable)]


@dataclass(frozen=True)
class Preset:
    """Numbers that paper 2 says, or that its published script uses."""

    lr: float
    batch_size: int
    epochs: int
    distillation_epochs: int


# Source: Yang et al. 2024, Tables 3 and 4; its code's defaults
PRESETS = {"paper": Preset(5e-3, 8, 100, 50), "script": Preset(1e-4, 4, 100, 100)}
PresetName = Literal["paper", "script"]


@dataclass(kw_only=True)
class SliceOptions:
    """Attributes:
    epochs: Number of epochs. None: the preset's.
    iterations: Training iterations an epoch. None: as many as it takes to draw as many slices as there are.
    val_iterations: Validation iterations an epoch. None: all slices of the validation cases, once; with fold "all" a
        twentieth of them.
    lr: AdamW's learning rate. None: the preset's.
    weight_decay: AdamW's.
    save_every: Epochs between two writings of checkpoint_latest, from which --c continues.
    precision: "auto" is nnU-Net's (float16 on CUDA, float32 elsewhere); "bfloat16" is for CPUs that compute in it.
    preset: "paper" or "script": learning rate, batch size and epochs of paper 2 or of its published script.
    flips: Whether to flip slices in training, each axis with one half's chance.
    channel: Name of the channel to look at; None: the first, or all three of colour images.
    windows: CT windows by label, as JSON: {"nodule": "lung", "stent": [300, 1500]}; others take what names suggest.
    final_slices: The most slices that the final validation looks at, spread over the cases.
    """

    epochs: AtLeastOne | None = None
    iterations: AtLeastOne | None = None
    val_iterations: AtLeastOne | None = None
    lr: Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    save_every: AtLeastOne = 1
    precision: Literal["auto", "bfloat16"] = "auto"
    preset: PresetName = "paper"
    flips: bool = True
    channel: str | None = None
    windows: dict[str, Any] | None = None
    final_slices: AtLeastOne = 500

    oversample = 0.0  # nnU-Net's, without meaning here

    def __post_init__(self) -> None:
        if self.lr is None:
            self.lr = PRESETS[self.preset].lr
        if self.epochs is None:
            self.epochs = self.usual_epochs()

    def usual_epochs(self) -> int:
        """Of the preset."""
        return PRESETS[self.preset].epochs


@dataclass(kw_only=True)
class BoxOptions(SliceOptions):
    """Attributes:
    encoder: The image encoder: paper 2's "swin", LiteMedSAM's "tinyvit", or "repvit".
    weights: Start from this checkpoint of the whole model, or from the "published" one (tinyvit); None: from scratch.
        From the current folder, nnUNet_results or nnUNet_preprocessed on.
    trained: "all", or the "decoder" alone (prompt encoder and mask decoder), after a distillation say.
    box: Boxes are drawn around all of a "label", or around one connected "component" of it.
    jitter: Each side of a box is moved outwards by up to so many pixels of the 256.
    """

    encoder: EncoderName = "swin"
    weights: File | None = None
    trained: Literal["all", "decoder"] = "all"
    box: BoxOf = "label"
    jitter: Annotated[float, Field(ge=0, le=256)] = 10.0


@dataclass(kw_only=True)
class DistillOptions(SliceOptions):
    """Attributes:
    encoder: The student's image encoder.
    teacher: "litemedsam" (the published TinyViT), a file of a whole model that nnUNetTrainerLiteMedSAM trained, or any
        installed teacher whose embeddings have the shape (256, 64, 64).
    teacher_options: Options of an installed teacher, as JSON.
    padding: "masked" leaves embeddings of padding out of the loss; "all" is the paper's way.
    cache: GiB of disk that teachers' embeddings may take, 2 MiB each; 0: they are computed whenever they are needed.
    """

    encoder: EncoderName = "repvit"
    teacher: File = "litemedsam"
    teacher_options: dict[str, Any] | None = None
    padding: Literal["masked", "all"] = "masked"
    cache: Annotated[float, Field(ge=0)] = 10.0

    def usual_epochs(self) -> int:
        """Of the preset."""
        return PRESETS[self.preset].distillation_epochs
