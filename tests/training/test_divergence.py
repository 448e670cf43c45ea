"""Tests of nnkd.training.divergence: nnU-Net's own loop, with a network of one weight."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnkd.errors import TrainingError, WeightsError
from nnkd.training import divergence
from nnkd.weights.checkpoints import load_checkpoint

NAN = float("nan")


class Loop(nnUNetTrainer):
    """nnU-Net's `run_training` over given losses; a loss that is NaN breaks the weight, unless a scaler is there."""

    def __init__(self, folder, losses, scaler=None, epochs=3):
        self.output_folder, self.losses, self.grad_scaler = str(folder), iter(losses), scaler
        self.network, self.loss, self.said, self.means = torch.nn.Linear(1, 1), None, [], []
        self.current_epoch, self.num_epochs = 0, epochs
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 4, 0
        self.dataloader_train, self.dataloader_val = iter(lambda: {}, None), iter(())

    def train_step(self, batch):
        loss = next(self.losses)
        if not np.isfinite(loss) and self.grad_scaler is None:
            self.network.weight.data.fill_(NAN)
        return {"loss": np.float32(loss)}

    def on_train_epoch_end(self, train_outputs):
        self.means.append(float(np.mean([said["loss"] for said in train_outputs])))

    def on_epoch_end(self):
        self.save_checkpoint(f"{self.output_folder}/checkpoint_latest.pth")
        self.current_epoch += 1

    def save_checkpoint(self, filename):
        torch.save({"network_weights": self.network.state_dict()}, filename)

    def print_to_log_file(self, *args, **_):
        self.said.append(" ".join(map(str, args)))

    def nothing(self, *_):
        pass

    on_train_start = on_train_end = on_epoch_start = on_train_epoch_start = nothing
    on_validation_epoch_start = on_validation_epoch_end = nothing


@pytest.mark.parametrize("bad", [NAN, np.inf])
def test_a_loss_that_is_no_number_stops_any_trainer_and_keeps_the_last_checkpoint(tmp_path, bad):
    trainer = Loop(tmp_path, [1, 1, 1, 1, 1, 1, bad, 1, 1])
    with divergence.watched(), pytest.raises(TrainingError, match=r"epoch 1, iteration 2 .*latest.*--c continues"):
        trainer.run_training()
    assert torch.isfinite(load_checkpoint(tmp_path / "checkpoint_latest.pth")["network_weights"]["weight"]).all()


def test_without_a_checkpoint_that_is_said(tmp_path):
    with divergence.watched(), pytest.raises(TrainingError, match=r"epoch 0, iteration 0 .*No checkpoint was left"):
        Loop(tmp_path, [NAN]).run_training()
    assert not any(tmp_path.iterdir())


def test_overflows_in_half_precision_are_left_out(tmp_path):
    trainer = Loop(tmp_path, [np.inf, NAN, 3, 1, *[2] * 8], scaler=object())
    with divergence.watched():
        trainer.run_training()
    assert trainer.means == [2, 2, 2]
    assert trainer.said == ["2 of 4 steps overflowed in half precision and were left out"]


def test_overflows_without_end_stop(tmp_path):
    trainer = Loop(tmp_path, [1, 1] + [NAN] * 99, scaler=object(), epochs=20)
    with divergence.watched(), pytest.raises(TrainingError, match="since epoch 0, iteration 2 "):
        trainer.run_training()


def test_broken_weights_are_never_written(tmp_path):
    trainer = Loop(tmp_path, [1] * 12)
    divergence.watch(trainer)
    trainer.save_checkpoint(f"{tmp_path}/checkpoint_best.pth")
    before = (tmp_path / "checkpoint_best.pth").read_bytes()
    trainer.network.weight.data.fill_(np.inf)
    with pytest.raises(TrainingError, match=r"weights that are no numbers .*since epoch 0 .*best.*--c continues"):
        trainer.save_checkpoint(f"{tmp_path}/checkpoint_best.pth")
    assert (tmp_path / "checkpoint_best.pth").read_bytes() == before


def test_a_checkpoint_with_nan_is_refused(tmp_path):
    torch.save({"network_weights": {"a": torch.ones(2), "b": torch.tensor([1, NAN])}}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"'x.pth' in .* has 1 of 2 tensors .* such as b"):
        load_checkpoint(tmp_path / "x.pth")


def test_the_only_output_of_two_stages_has_all_the_weight():
    """nnU-Net's own `_build_loss` divides 0 by 0."""
    trainer = SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=False, ignore_label=None),
        configuration_manager=SimpleNamespace(batch_dice=False),
        is_ddp=False,
        enable_deep_supervision=True,
        _do_i_compile=lambda: False,
        _get_deep_supervision_scales=lambda: [[1.0, 1.0]],
    )
    with np.errstate(invalid="ignore"):
        loss = nnUNetTrainer._build_loss(trainer)
    output, target = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)
    assert torch.isnan(torch.as_tensor(loss([output], [target])))
    assert divergence.mend(loss)([output], [target]) == pytest.approx(float(loss.loss(output, target)))
    other = DeepSupervisionWrapper(loss.loss, (0.7, 0.3))
    assert divergence.mend(other).weight_factors == (0.7, 0.3)
