"""nnkd.inference.predictor; that its answers are nnU-Net's is tested with the teacher nnunet."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from trained import trained

from nnkd.devices import threads
from nnkd.errors import PredictionError
from nnkd.inference.predictor import load_predictor, predict_array, quiet
from nnkd.weights.checkpoints import TrainedModel


def test_what_nnunet_says_goes_to_the_log(capsys, caplog):
    with caplog.at_level(logging.DEBUG, "nnkd"), quiet():
        print("Using torch.compile\n")
    assert capsys.readouterr().out == ""
    assert [record.message for record in caplog.records] == ["nnU-Net: Using torch.compile"]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_an_image_nnunet_cannot_predict_is_one_sentence(tmp_path):
    predictor = load_predictor(TrainedModel.open(trained(tmp_path), ["0"], "checkpoint_final.pth"), "cpu")
    array = np.zeros((1, 2, 16, 16), np.float32)
    assert predict_array(predictor, array, {"spacing": [2.0, 1.0, 1.0]}).shape == (2, 16, 16)
    with pytest.raises(PredictionError, match=r"^nnU-Net could not predict it: [^\n]+$"):
        predict_array(predictor, np.zeros((2, 2, 16, 16), np.float32), {"spacing": [2.0, 1.0, 1.0]})
