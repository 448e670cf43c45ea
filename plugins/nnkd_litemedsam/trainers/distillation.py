"""nnUNetTrainerRepViTDistill: stage 2 of paper 2, an image encoder for laptops that learns a teacher's embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnkd.errors import RecipeError
from nnkd.plugin.options import parse_options
from nnkd.plugin.teachers import BoxTeacher
from nnkd.types import TeacherContext
from nnkd_litemedsam.networks.model import LiteMedSAM
from nnkd_litemedsam.sizes import CHANNELS
from nnkd_litemedsam.slices.loader import Reader, Targets
from nnkd_litemedsam.slices.options import DistillOptions
from nnkd_litemedsam.trainers import embedding_teachers
from nnkd_litemedsam.trainers.embedding_files import GIB, EmbeddingFiles
from nnkd_litemedsam.trainers.embedding_teachers import OWN, EmbeddingTeacher, PluginTeacher
from nnkd_litemedsam.trainers.final_validation import Row, looks, rows, summary_of
from nnkd_litemedsam.trainers.losses import EmbeddingLoss, no_padding, relative_error
from nnkd_litemedsam.trainers.slices import SliceTrainer

SEEN_BEFORE = 8  # slices that tell the scale of the teacher's embeddings


class nnUNetTrainerRepViTDistill(SliceTrainer):
    """RepViT-M0.6 (or another image encoder) learns to embed images as a teacher does; prompt encoder and mask decoder
    are the teacher's own and stay as they are. No labels are looked at.

    Source: Yang et al. 2024, sections 2.2 and 3.4. Departs: the teacher is LiteMedSAM's TinyViT unless another one is
    named, because weights of the paper's Swin were never published; padding does not count (`padding=all`: it does);
    the encoder's last layer norm starts with the teacher's mean and deviation in each channel.
    """

    options_class = DistillOptions
    labelled = False
    curves = {"relative_error": "error of embeddings / their length"}  # noqa: RUF012 - as SliceTrainer has it

    # --- before a training --------------------------------------------------------------------------------------

    @classmethod
    def lineage(cls, options: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, str]]:
        """The teacher, and what it learned from; label maps are not looked at."""
        name = options["teacher"]
        file = embedding_teachers.model_file(name)
        if file is not None:
            return embedding_teachers.lineage_of_file(OWN if name == OWN else file.name, file)
        _, entry = cls.installed("teacher", name)
        return [{"name": name, "licence": entry.licence, "weights_licence": entry.weights_licence}]

    @classmethod
    def check_options(cls, options: Mapping[str, Any], patch_size: Sequence[int]) -> None:
        """See Student.

        Raises:
            UnknownPluginError: If no such teacher is installed.
            RecipeError: If it has no embeddings.
            WeightsError: If its weights are missing.
            SettingError: If it does not know its options.
        """
        name = options["teacher"]
        if embedding_teachers.model_file(name) is not None:
            if options["teacher_options"]:
                raise RecipeError(f"teacher_options are for installed teachers, but teacher={name} has none.")
            return
        kind, _ = cls.installed("teacher", name)
        embedding_teachers.check_kind(name, kind)
        parse_options(kind, options["teacher_options"] or {}, name)

    # --- teacher and student ------------------------------------------------------------------------------------

    @cached_property
    def teacher(self) -> EmbeddingTeacher:
        """The teacher, on the device.

        Raises:
            NnkdError: If it cannot be made, or its embeddings have another shape.
        """
        name = self.options.teacher
        file = embedding_teachers.model_file(name)
        if file is not None:
            return embedding_teachers.from_file(file, name if name == OWN else file.name, self.device)
        kind, _ = self.installed("teacher", name)
        embedding_teachers.check_kind(name, kind)
        context = TeacherContext(labels=(), device=self.device.type, workers=torch.get_num_threads())
        teacher: BoxTeacher = kind(context, **parse_options(kind, self.options.teacher_options or {}, name))
        return PluginTeacher(name, teacher, self.device)

    def make_network(self) -> LiteMedSAM:
        """The student's encoder with random weights, the teacher's decoder."""
        network = super().make_network()
        decoder = self.teacher.decoder()
        if decoder:
            network.load_state_dict({**network.state_dict(), **decoder})
        else:
            self.print_to_log_file(
                f"{self.teacher.name} has no decoder of LiteMedSAM's kind, so the student's has random weights. Train "
                f"it with nnUNetTrainerLiteMedSAM --set trained=decoder encoder={self.options.encoder} weights=FILE."
            )
        network.prompt_encoder.requires_grad_(False)
        network.mask_decoder.requires_grad_(False)
        self._start_at_the_teachers_scale(network.image_encoder)
        return network

    @torch.no_grad()
    def _start_at_the_teachers_scale(self, encoder: nn.Module) -> None:
        """LiteMedSAM's embeddings are a ninth as long as those of a fresh layer norm. AdamW moves a weight by about the
        learning rate a step, so hundreds of steps would go into shrinking. On 24 hippocampus scans and 40 blood smears
        the relative error after 8 iterations of 2 slices was 0.79 so, and 8.85 from a fresh one."""
        norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm) and m.weight.shape == (CHANNELS,)]
        if not norms:
            return
        reader, found = Reader(self.slices, self.several), []
        keys = [key for key in self.do_split()[0] if reader.choices(key)]
        for key, z in reader.fixed(keys, SEEN_BEFORE):
            sample = reader.sample(key, z, np.random.default_rng(0), flips=False)
            embedding = self.teacher.embed(torch.from_numpy(sample.image)[None].to(self.device))[0]
            inside = no_padding(torch.tensor([sample.shape], device=self.device))[0] > 0
            found.append(embedding[:, inside].cpu())
        if found:
            pixels = torch.cat(found, dim=1)
            norms[-1].weight.copy_(pixels.std(dim=1))
            norms[-1].bias.copy_(pixels.mean(dim=1))

    def _build_loss(self) -> nn.Module:
        return EmbeddingLoss(masked=self.options.padding == "masked")

    # --- data ---------------------------------------------------------------------------------------------------

    @cached_property
    def kept(self) -> EmbeddingFiles | None:
        """Embeddings on disk; None where none are kept."""
        if not self.options.cache:
            return None
        if not self.teacher.digest:
            self.print_to_log_file(f"{self.teacher.name} does not say which weights it has: no embedding is kept.")
            return None
        folders = {name: slices.folder for name, slices in self.slices.items()}
        each = 4 if self.options.flips else 1
        content = (
            len(record.content()) * len(slices.index.windows)
            for slices in self.slices.values()
            for record in slices.index.cases.values()
        )
        budget = int(self.options.cache * GIB)
        kept = EmbeddingFiles(folders, self.teacher.digest, budget).open(each * sum(content))
        self.print_to_log_file(f"{kept.used / GIB:.2f} of {kept.budget / GIB:.2f} GiB of embeddings are kept already.")
        return kept

    def reader(self) -> Reader:
        """Images alone."""
        return Reader(self.slices, self.several, files=self.kept)

    def taught(self, batch: Mapping[str, Any], images: Tensor) -> Tensor:
        """The teacher's embeddings of a batch, (B, 256, 64, 64) float32: those that are kept, and the others, which are
        computed now and kept.

        Args:
            batch: From the loader.
            images: Its images on the device.
        """
        known = batch.get("embeddings") or [None] * len(images)
        missing = [place for place, found in enumerate(known) if found is None]
        result = torch.empty((len(images), *embedding_teachers.SHAPE), device=self.device)
        if missing:
            fresh = self.teacher.embed(images[missing])
            result[missing] = fresh
            if self.kept is not None:
                for place, embedding in zip(missing, fresh, strict=True):
                    self.kept.write(Path(batch["files"][place]), embedding)
        for place, found in enumerate(known):
            if found is not None:
                result[place] = found.to(self.device, torch.float32, non_blocking=True)
        return result

    # --- a training ---------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """SliceTrainer's; the decoder is never trained."""
        super().on_train_epoch_start()
        self.network.prompt_encoder.eval()
        self.network.mask_decoder.eval()

    def outputs(self, batch: Mapping[str, Any]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Embeddings, and the teacher's with what of them is no padding."""
        images = batch["data"].to(self.device, non_blocking=True)
        taught = self.taught(batch, images)
        with self.precision():
            embeddings = self.network.image_encoder(images)
        return embeddings.float(), (taught, batch["shapes"].to(self.device))

    def measures(self, output: Tensor, target: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """How far embeddings are off."""
        return {"relative_error": relative_error(output, *target)}

    @torch.no_grad()
    def final_summary(self) -> dict[str, Any]:
        """Error of embeddings on validation slices; where there are labels, DSC of student and teacher side by side."""
        plain, labelled = self.reader(), Reader(self.slices, self.several, Targets(jitter=0))
        keys = self.get_tr_and_val_datasets()[1]
        with_labels = labelled.fixed([key for key in keys if labelled.choices(key)], self.options.final_slices)
        pairs = with_labels or plain.fixed(keys, self.options.final_slices)
        found: list[Row] = []
        errors: list[tuple[float, float]] = []
        for key, z in pairs:
            for boxed in looks(labelled, key, z, self.device):
                with self.precision():
                    student = self.network.image_encoder(boxed.image).float()
                teacher = self.teacher.embed(boxed.image)
                shapes = torch.tensor([boxed.shape], device=self.device)
                mean = EmbeddingLoss(masked=True)(student, (teacher, shapes)).item()
                errors.append((mean, relative_error(student, teacher, shapes).item()))
                if boxed.labels:
                    masks = {
                        "student": self.network.decode(student[0], boxed.boxes) > 0,
                        "teacher": self.teacher.masks(teacher[0], boxed.boxes),
                    }
                    found += rows(boxed, masks)
        squared, relative = (round(float(value), 6) for value in np.mean(errors, axis=0))
        means = {"squared error of embeddings": squared, "relative error of embeddings": relative}
        return summary_of(found, len(pairs), {"mean": means, "teacher": self.teacher.name})
