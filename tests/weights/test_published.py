"""nnkd.weights.published: files that are no checkpoints."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnkd.errors import WeightsError
from nnkd.weights.checkpoints import weights_only
from nnkd.weights.published import everything, fill, read


@settings(max_examples=150)
@given(st.binary(max_size=40))
@example(b"junk")
@example(b"")
@example(b"version https://git-lfs.github.com/spec/v1")
def test_whatever_is_no_checkpoint_is_one_sentence(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("weights") / "a.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"'a\.pth'"):
        everything(file, "LiteMedSAM")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, ending, bad):
    """Of any model that anybody published; and where nnU-Net itself loads its checkpoints."""
    network, file = torch.nn.Linear(2, 1), tmp_path / f"a{ending}"
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    state["weight"][0, 1] = bad
    if ending == ".pth":
        torch.save({"model": state}, file)
    else:
        from safetensors.torch import save_file

        save_file(state, file)
    with pytest.raises(WeightsError, match=f"'a{ending}' has 1 of 2 tensors .* no numbers .* such as weight"):
        fill(network, read(file, "LiteMedSAM"), file, "LiteMedSAM")
    assert torch.isfinite(network.weight).all()
    torch.save({"network_weights": state}, tmp_path / "checkpoint_latest.pth")
    with pytest.raises(WeightsError, match=r"'checkpoint_latest\.pth' in .* no numbers"):
        weights_only(torch.load)(str(tmp_path / "checkpoint_latest.pth"))
