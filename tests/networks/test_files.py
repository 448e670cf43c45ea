"""Tests of nnkd.networks.files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extras import needs
from torch import nn

from nnkd.errors import BrokenPluginError, SettingError, WeightsError
from nnkd.networks import files, runtimes
from nnkd.networks.files import Difference, check_packages, difference, write_onnx, write_openvino
from nnkd.networks.runtimes import installed, open_session

pytestmark = [needs("export", "onnx", "onnxscript", "onnxruntime"), pytest.mark.heavy]


class Toy(nn.Module):
    """A convolution, and a short cut for inference as some layers have one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, image):
        if not torch.is_grad_enabled():
            return torch.cat([self.conv(one) for one in image.split(1)])
        return self.conv(image)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network and its file."""
    torch.manual_seed(0)
    network, file = Toy(), tmp_path_factory.mktemp("network files") / "toy.onnx"
    write_onnx(network, {"image": torch.zeros(2, 1, 8, 8)}, "logits", file, {"image": "batch"})
    return network, file


def answers(network: nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(image)).numpy()


@pytest.mark.parametrize("runtime", installed())
@pytest.mark.parametrize("number", [1, 5])
def test_a_written_network_answers_alike_for_any_batch(written, runtime, number):
    network, file = written
    image = np.random.default_rng(number).standard_normal((number, 1, 8, 8)).astype(np.float32)
    session = open_session(file, runtime, 1, inputs=("image",), outputs=("logits",))
    found = difference(answers(network, image), session.run({"image": image})[0], heads=1)
    assert found.logits < 1e-6
    assert (found.pixels, found.of) == (0, number * 64)


def test_a_file_says_nothing_of_this_machine(written):
    content = written[1].read_bytes()
    assert b"conv" in content
    assert not any(word in content for word in (b".py", b"site-packages", b"/home", __file__.encode()))


@needs("export", "openvino")
def test_openvinos_own_files_answer_alike(written, tmp_path):
    network, file = written
    write_openvino(file, tmp_path / "toy.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"toy.xml", "toy.bin"}
    image = np.ones((3, 1, 8, 8), np.float32)
    (found,) = open_session(tmp_path / "toy.xml", "openvino", 1).run({"image": image})
    np.testing.assert_allclose(found, answers(network, image), atol=1e-6)
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"OpenVINO cannot read 'broken\.onnx'"):
        write_openvino(tmp_path / "broken.onnx", tmp_path / "broken.xml")


def test_what_cannot_be_written_is_refused(tmp_path):
    class Asks(nn.Module):
        def forward(self, image):
            return image if float(image.sum()) > 0 else -image

    with pytest.raises(BrokenPluginError, match="Asks cannot be written as ONNX"):
        write_onnx(Asks(), {"image": torch.zeros(1, 2)}, "logits", tmp_path / "asks.onnx")
    assert list(tmp_path.iterdir()) == []


@torch.library.custom_op("nnkd_test::strange", mutates_args=())
def strange(x: torch.Tensor) -> torch.Tensor:
    """An operation that ONNX has not."""
    return x + 1


@strange.register_fake
def _shape_of(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Strange(nn.Module):
    """Needs it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.nnkd_test.strange(x)


def test_an_operation_that_onnx_has_not_is_named(tmp_path):
    sentence = r"^Strange cannot be written as ONNX \(ONNX has no operation nnkd_test\.strange; .*PyTorch alone\)\.$"
    with pytest.raises(BrokenPluginError, match=sentence):
        write_onnx(Strange(), {"image": torch.zeros(2, 1, 4, 4)}, "logits", tmp_path / "strange.onnx")
    assert not list(tmp_path.iterdir())


def test_packages_are_asked_for_before_anything_is_done(monkeypatch):
    check_packages(openvino=False)
    monkeypatch.setattr(files, "find_spec", lambda name: None if name == "openvino" else object())
    check_packages(openvino=False)
    with pytest.raises(SettingError, match="Exporting needs openvino, which is not installed"):
        check_packages(openvino=True)
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r'Install one of them: pip install "nnkd\[export\]"'):
        check_packages()


def test_differences_add_up():
    first = np.array([[1.0, -1.0, 0.5], [0.0, 0.0, 1.0]])
    second = np.array([[1.0, -1.0, 0.75], [0.5, 0.0, 0.0]])
    assert difference(first, second) == Difference(1.0, 2, 6)
    assert difference(first, second, heads=0) == Difference(1.0, 1, 3)
    total = Difference(0.1, 2, 6) + Difference(0.3, 1, 4)
    assert total == Difference(0.3, 3, 10)
    assert str(total) == "logits differ by at most 3.0e-01, masks in 3 of 10 pixels"
    with pytest.raises(WeightsError, match="not finite"):
        difference(first, np.full_like(first, np.nan))
    with pytest.raises(WeightsError, match=r"answers with \(3,\) numbers"):
        difference(first, np.zeros(3))


def test_an_exporter_that_gives_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: None)
    with pytest.raises(BrokenPluginError, match="torch's exporter gave nothing"):
        write_onnx(torch.nn.Conv2d(1, 1, 1), {"x": torch.zeros(1, 1, 4, 4)}, "y", tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []
