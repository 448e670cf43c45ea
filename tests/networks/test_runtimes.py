"""Tests of nnkd.networks.runtimes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from extras import needs

from nnkd.errors import SettingError, WeightsError
from nnkd.networks import runtimes
from nnkd.networks.runtimes import RUNTIMES, installed, open_session

ON = [pytest.param(name, marks=needs("export", name)) for name in RUNTIMES]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A network with the inputs a (n, 3) and b (3, 2) and the output product."""
    onnx = pytest.importorskip("onnx", reason='needs onnx: pip install "nnkd[export]"')
    from onnx import TensorProto, helper

    values = {"a": ["n", 3], "b": [3, 2], "product": ["n", 2]}
    a, b, product = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items())
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["product"])], "toy", [a, b], [product])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path_factory.mktemp("runtimes") / "toy.onnx"
    onnx.save(model, path)
    return path


def arrays(n: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"b": rng.random((3, 2), dtype=np.float32), "a": rng.random((n, 3), dtype=np.float32)}


@pytest.mark.parametrize("runtime", ON)
def test_a_network_computes_and_its_answers_are_the_callers(file, runtime, tmp_path):
    session = open_session(file, runtime, 1, tmp_path, inputs=("a", "b"), outputs=("product",))
    assert (session.inputs, session.outputs) == (("a", "b"), ("product",))
    given = arrays()
    (first,) = session.run(given)
    kept = first.copy()
    np.testing.assert_allclose(first, given["a"] @ given["b"], rtol=1e-6)
    (other,) = session.run(arrays(7))
    assert other.shape == (7, 2)
    np.testing.assert_array_equal(first, kept)
    turned = {**given, "b": np.asfortranarray(given["b"])}  # the same numbers, stored otherwise
    np.testing.assert_array_equal(session.run(turned)[0], kept)


@pytest.mark.parametrize("runtime", ON)
@pytest.mark.parametrize("name", ["a", "z"])
def test_an_output_is_found_behind_layers_that_do_nothing(tmp_path, runtime, name):
    """OpenVINO drops them and then calls the output by either layer's name."""
    onnx = pytest.importorskip("onnx", reason='needs onnx: pip install "nnkd[export]"')
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(one, TensorProto.FLOAT, [2]) for one in ("x", name))
    nodes = [helper.make_node("Div", ["x", "x"], ["ratio"]), helper.make_node("Identity", ["ratio"], [name])]
    model = helper.make_model(helper.make_graph(nodes, "toy", [x], [y]), opset_imports=[helper.make_opsetid("", 17)],
                              ir_version=9)  # fmt: skip
    onnx.save(model, tmp_path / "toy.onnx")
    session = open_session(tmp_path / "toy.onnx", runtime, 1, inputs=("x",), outputs=(name,))
    assert session.outputs == (name,)
    np.testing.assert_array_equal(session.run({"x": np.array([2, 4], dtype=np.float32)})[0], [1, 1])


@pytest.mark.parametrize("runtime", ON)
def test_a_network_refuses_other_arrays(file, runtime):
    session = open_session(file, runtime, 1)
    with pytest.raises(WeightsError, match=r"'toy\.onnx' takes a and b, but was given a"):
        session.run({"a": arrays()["a"]})
    with pytest.raises(WeightsError, match="cannot compute with what it was given"):
        session.run({"a": np.zeros((4, 5), np.float32), "b": arrays()["b"]})


@pytest.mark.parametrize("runtime", ON)
def test_a_broken_file_and_another_network_are_refused(file, runtime, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(WeightsError, match=r"'broken\.onnx' cannot be loaded") as caught:
        open_session(broken, runtime, 1)
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(WeightsError, match="has the outputs product, but logits are expected"):
        open_session(file, runtime, 1, outputs=("logits",))
    with pytest.raises(WeightsError, match=r"There is no 'gone\.onnx' in"):
        open_session(tmp_path / "gone.onnx", runtime, 1)
    with pytest.raises(SettingError, match="threads is 0"):
        open_session(file, runtime, 0)


def test_a_runtime_that_is_not_there_is_refused_with_what_to_install(file, monkeypatch):
    with pytest.raises(SettingError, match="no runtime 'tensorrt'; nnkd knows openvino and onnxruntime"):
        open_session(file, "tensorrt", 1)
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object() if name == "onnxruntime" else None)
    assert installed() == ("onnxruntime",)
    with pytest.raises(SettingError, match=r"Install it \(pip install openvino\), or choose onnx"):
        open_session(file, "openvino", 1)


def test_only_openvino_reads_its_own_files(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: object())
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(SettingError, match=r"onnxruntime reads \.onnx files, but was given 'model.xml'"):
        open_session(tmp_path / "model.xml", "onnxruntime", 1)


def test_asking_what_is_installed_imports_none_of_it():
    heavy = "{'torch', *r.RUNTIMES} & set(sys.modules)"
    code = f"import sys, nnkd.networks.runtimes as r; r.installed(); sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
