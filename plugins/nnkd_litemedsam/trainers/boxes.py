"""nnUNetTrainerLiteMedSAM: stage 1 of paper 2, a LiteMedSAM with a strong image encoder, trained on boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnkd.data.dataset import RawDataset
from nnkd.errors import DatasetError, RecipeError
from nnkd_litemedsam import model_files, weights
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.slices import plans
from nnkd_litemedsam.slices.loader import Reader, Targets
from nnkd_litemedsam.slices.options import BoxOptions
from nnkd_litemedsam.slices.store import SMALLEST
from nnkd_litemedsam.trainers import embedding_teachers
from nnkd_litemedsam.trainers.final_validation import Row, looks, rows, summary_of
from nnkd_litemedsam.trainers.losses import Answer, BoxLoss, decode, dice_of
from nnkd_litemedsam.trainers.slices import SliceTrainer

PUBLISHED = "published"


class nnUNetTrainerLiteMedSAM(SliceTrainer):
    """LiteMedSAM with a small Swin transformer (or another image encoder), from scratch or from weights: one label of
    a slice at a time, and a box around it.

    Source: Yang et al. 2024, sections 2.2 and 3.3.
    """

    options_class = BoxOptions
    curves = {"val_dice": "DSC of validation slices"}  # noqa: RUF012 - as SliceTrainer has it

    @classmethod
    def lineage(cls, options: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, str]]:
        """The weights that the training starts from, and the teachers whose consensus is in labelsTr."""
        found: list[dict[str, str]] = []
        if options["weights"] is not None:
            file = _file(options["weights"])
            found = embedding_teachers.lineage_of_file(file.name, file)
        return [*found, *(model for model in plans.inherited(names)[0] if model not in found)]

    @classmethod
    def told_of_truth(cls, names: Sequence[str]) -> bool:
        """Whether a teacher whose consensus is in labelsTr was told of reference labels."""
        return plans.inherited(names)[1]

    @classmethod
    def check_options(cls, options: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        """See Student.

        Raises:
            WeightsError: If the weights are missing, or of another encoder.
        """
        if options["weights"] is not None:
            weights.load_model(_file(options["weights"]), options["encoder"])

    @classmethod
    def check_datasets(cls, options: Mapping[str, Any], names: Sequence[str]) -> None:
        """See SliceTrainer.

        Raises:
            DatasetError: If a dataset has no label map, or an ignore label.
        """
        super().check_datasets(options, names)
        for name in names:
            raw = plans.raw_folder(name)
            if raw is None:
                continue
            dataset = RawDataset(raw)
            if dataset.spec.ignore_label is not None:
                raise DatasetError(f"{name} has an ignore label, which boxes know nothing of. Take it out.")
            if not any(dataset.label_file(case).is_file() for case in dataset.images().cases()):
                raise DatasetError(
                    f"{name} has no label map in labelsTr, but {cls.__name__} learns from them. Run nnKD_aggregate, "
                    f"put label maps there, or distil without labels (nnUNetTrainerRepViTDistill)."
                )

    def make_network(self) -> LiteMedSAM:
        """With the weights that were asked for, and the encoder frozen if only the decoder is trained."""
        name = self.options.weights
        if name is None:
            network = super().make_network()
        else:
            network, _, info = weights.load_model(_file(name), self.options.encoder)
            self.print_to_log_file(f"The network starts from {info['name']}, sha256 {info['sha256']}.")
        if self.options.trained == "decoder":
            network.image_encoder.requires_grad_(False)
        return network

    def _build_loss(self) -> nn.Module:
        return BoxLoss()

    def reader(self) -> Reader:
        """With targets."""
        return Reader(self.slices, self.several, Targets(self.options.box, self.options.jitter))

    def get_dataloaders(self) -> tuple[Any, Any]:
        """SliceTrainer's.

        Raises:
            RecipeError: If labelsTr holds a consensus of teachers whose licences the recipe does not name.
        """
        known = [dict(model) for model in self.recipe.lineage]
        for name, slices in self.slices.items():
            strange = [model.name for model in slices.index.lineage if model.model_dump() not in known]
            if strange:
                raise RecipeError(
                    f"labelsTr of {name} holds a consensus of {', '.join(strange)}, whose licences '"
                    f"{self.plans_manager.plans_name}' does not name. Write the recipe again: nnKD_train without -p."
                )
        return super().get_dataloaders()

    def on_train_epoch_start(self) -> None:
        """SliceTrainer's; a frozen encoder keeps its batch norms."""
        super().on_train_epoch_start()
        if self.options.trained == "decoder":
            self.network.image_encoder.eval()

    def outputs(self, batch: Mapping[str, Any]) -> tuple[Answer, Tensor]:
        """Masks of one box an image."""
        images = batch["data"].to(self.device, non_blocking=True)
        boxes = batch["boxes"].to(self.device, non_blocking=True)
        with self.precision():
            embeddings = self.network.image_encoder(images)
        # in float32: half precision would move boxes by a fraction of a pixel, and the decoder costs little
        answer = decode(self.network, embeddings.float(), boxes)
        return answer, batch["target"].to(self.device, non_blocking=True)

    def measures(self, output: Answer, target: Tensor) -> dict[str, Tensor]:
        """DSC."""
        return {"val_dice": dice_of(output.logits, target)}

    @torch.no_grad()
    def final_summary(self) -> dict[str, Any]:
        """DSC on slices of validation cases, each label with an exact box."""
        reader = Reader(self.slices, self.several, Targets(jitter=0))
        pairs = reader.fixed(self.get_tr_and_val_datasets()[1], self.options.final_slices)
        found: list[Row] = []
        for key, z in pairs:
            for boxed in looks(reader, key, z, self.device):
                with self.precision():
                    embedding = self.network.image_encoder(boxed.image)[0].float()
                found += rows(boxed, {"student": self.network.decode(embedding, boxed.boxes) > 0})
        return summary_of(found, len(pairs), {"smallest_target": SMALLEST})


def _file(name: str) -> Any:
    return weights.published() if name == PUBLISHED else model_files.find(name, "weights")
