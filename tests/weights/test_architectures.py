"""Plans name classes, and nnU-Net runs whatever they name."""

from __future__ import annotations

import copy
import os
import sys

import pytest
from planned import configuration

from nnkd.errors import SettingError, WeightsError
from nnkd.weights import architectures


def plans(**architecture):
    made = copy.deepcopy(configuration("2d", (16, 16), (1.0, 1.0), 1))
    made["architecture"].update(architecture)
    return {"configurations": {"2d": made}, "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A package that says when it is imported, with a network, a function and something borrowed."""
    (tmp_path / "planted_nets.py").write_text(
        f"open({str(tmp_path / 'RAN')!r}, 'w').close()\nfrom torch import nn\nfrom os import system\n"
        "class Net(nn.Module): pass\ndef build(**k): return Net()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(architectures.VARIABLE, "")
    architectures._located.cache_clear()
    yield tmp_path / "RAN"
    sys.modules.pop("planted_nets", None)


def test_what_nnunet_plans_passes():
    architectures.check(plans(), "m")
    moved = "dynamic_network_architectures.architectures.moved.PlainConvUNet"  # nnU-Net looks for its last part
    architectures.check(plans(network_class_name=moved), "m")
    architectures.check(plans(network_class_name="LiteMedSAM"), "m")  # a trainer's own, which nnU-Net cannot find


@pytest.mark.parametrize(
    "name",
    [
        "torch.hub.load",
        "torch.nn.Conv2d",  # a layer is no network
        "os.system",
        "subprocess.Popen",
        "exec",
        "json",  # a bare name is a module that nnU-Net would import
        "nnunetv2.utilities.find_class_by_name.os.system",
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer",
        "dynamic_network_architectures.moved.np",
        "nnkd.files.sha256",
        "a..b",
        "",
        5,
        None,
    ],
)
def test_a_network_that_is_none_is_refused(name):
    with pytest.raises(WeightsError, match="as network_class_name"):
        architectures.check(plans(network_class_name=name), "m")


@pytest.mark.parametrize("key", ["conv_op", "norm_op", "dropout_op", "nonlin", "block"])
@pytest.mark.parametrize("value", ["os.system", "torch.hub.load", "torch.nn.Module.apply", "builtins.exec", 7])
def test_a_layer_that_is_none_is_refused(key, value):
    made = plans()
    made["configurations"]["2d"]["architecture"]["arch_kwargs"][key] = value
    made["configurations"]["2d"]["architecture"]["_kw_requires_import"] = [key]
    with pytest.raises(WeightsError, match=f"as {key}"):
        architectures.check(made, "m")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preprocessor_name", "join"),
        ("resampling_fn_data", "resize"),
        ("resampling_fn_seg", "os.system"),
        ("resampling_fn_probabilities", "recursive_find_python_class"),  # which a module of theirs imports
        ("resampling_fn_data", ["resample_data_or_seg_to_shape"]),
        ("normalization_schemes", 7),
        ("normalization_schemes", [["ZScoreNormalization"]]),
        ("normalization_schemes", ["np"]),
        ("image_reader_writer", "np"),
        ("label_manager", "join"),
    ],
)
def test_what_nnunets_search_would_find_by_chance_is_refused(key, value):
    made = plans()
    (made if key in made else made["configurations"]["2d"])[key] = value
    with pytest.raises(WeightsError, match=f"as {key}"):
        architectures.check(made, "m")


@pytest.mark.parametrize("imported", [[["conv_op"]], ["os.system"], "conv_op", {"conv_op": 1}, [None]])
def test_keywords_that_are_to_be_imported_are_names_of_keywords(imported):
    with pytest.raises(WeightsError, match=r"as (_kw_requires_import|architecture)"):
        architectures.check(plans(_kw_requires_import=imported), "m")


def test_every_configuration_is_looked_at():
    made = plans()
    made["configurations"]["other"] = plans(network_class_name="os.system")["configurations"]["2d"]
    with pytest.raises(WeightsError, match=r"os\.system"):
        architectures.check(made, "m")


def test_a_package_from_outside_is_not_even_imported_until_it_is_named(planted):
    for name in ("planted_nets.Net", "planted_nets.build", "planted_nets"):
        with pytest.raises(WeightsError):
            architectures.check(plans(network_class_name=name), "m")
    assert not planted.exists()
    architectures.allow(["planted_nets"])
    assert os.environ[architectures.VARIABLE] == "planted_nets"  # so that processes started from here know it
    architectures.check(plans(network_class_name="planted_nets.Net"), "m")
    architectures.check(plans(network_class_name="planted_nets.build"), "m")
    with pytest.raises(WeightsError, match="no network"):
        architectures.check(plans(network_class_name="planted_nets.system"), "m")


@pytest.mark.parametrize("package", ["os", "torch", "numpy", "a.b", ""])
def test_packages_that_can_do_everything_are_not_allowed(package, monkeypatch):
    monkeypatch.setenv(architectures.VARIABLE, package)  # nor through the variable
    with pytest.raises(SettingError, match="a package of networks"):
        architectures.allow([package])
    with pytest.raises(WeightsError):
        architectures.check(plans(network_class_name="os.system"), "m")


@pytest.mark.parametrize("broken", [{}, [], {"configurations": {"2d": 1}}, {"configurations": []}])
def test_what_are_no_plans(broken):
    with pytest.raises(WeightsError, match="no configurations"):
        architectures.check(broken, "m")


def test_a_reader_of_a_dataset_json():
    architectures.check_reader({}, "m")
    architectures.check_reader({"overwrite_image_reader_writer": "SimpleITKIO"}, "m")
    with pytest.raises(WeightsError, match="no BaseReaderWriter"):
        architectures.check_reader({"overwrite_image_reader_writer": "np"}, "m")
