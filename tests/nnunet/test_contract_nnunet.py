"""What we rely on in nnU-Net, batchgenerators and batchgeneratorsv2: one assertion each, so that an upgrade that
breaks us says where."""

from __future__ import annotations

import inspect
import os

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from batchgenerators.augmentations.utils import resize_segmentation
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask, crop_to_nonzero
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import (
    compute_new_shape,
    determine_do_sep_z_and_axis,
    resample_data_or_seg_to_shape,
)
from nnunetv2.run import load_pretrained_weights as pretrained
from nnunetv2.run import run_training as running
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnkd import paths


def names(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def transforms() -> ComposeTransforms:
    return nnUNetTrainer.get_training_transforms((16, 16), (-1.0, 1.0), None, (0, 1), False)


def spatial(**keywords) -> SpatialTransform:
    return SpatialTransform((8, 8), patch_center_dist_from_border=0, random_crop=False, **keywords)


# --- nnU-Net's trainer --------------------------------------------------------------------------------------------


def test_constructor():
    assert names(nnUNetTrainer.__init__) == ["plans", "configuration", "fold", "dataset_json", "device"]


def test_constructor_pops_continue_training():
    assert 'plans.pop("continue_training")' in inspect.getsource(nnUNetTrainer.__init__)


@pytest.mark.parametrize(
    "method",
    [
        "_build_loss", "do_split", "get_tr_and_val_datasets", "get_dataloaders", "train_step", "validation_step",
        "on_train_start", "save_checkpoint", "load_checkpoint", "print_to_log_file", "_save_debug_information",
        "_get_deep_supervision_scales", "_do_i_compile", "perform_actual_validation", "run_training", "initialize",
        "configure_rotation_dummyDA_mirroring_and_inital_patch_size", "configure_optimizers",
        "set_deep_supervision_enabled", "get_validation_transforms",
    ],
)  # fmt: skip
def test_methods_we_override_or_call(method):
    assert callable(getattr(nnUNetTrainer, method))


def test_build_network_architecture():
    parameters = names(nnUNetTrainer.build_network_architecture)
    assert parameters[:2] == ["plans_manager", "configuration_manager"]
    assert parameters[-1] == "enable_deep_supervision"
    assert len(parameters) == 5


def test_training_transforms_take_our_arguments():
    wanted = {"use_mask_for_norm", "is_cascaded", "foreground_labels", "regions", "ignore_label"}
    assert wanted <= set(names(nnUNetTrainer.get_training_transforms))
    assert wanted - {"use_mask_for_norm"} <= set(names(nnUNetTrainer.get_validation_transforms))


def test_the_pseudo_dice_comes_from_these_keys():
    source = inspect.getsource(nnUNetTrainer.on_validation_epoch_end)
    assert all(f"'{key}'" in source for key in ("tp_hard", "fp_hard", "fn_hard", "loss"))


def test_validation_writes_under_the_fold():
    assert "'predicted_next_stage'" in inspect.getsource(nnUNetTrainer.perform_actual_validation)
    assert "'gt_segmentations'" in inspect.getsource(nnUNetTrainer.perform_actual_validation)


def test_results_are_named_by_class_and_inner_plans_name():
    source = inspect.getsource(nnUNetTrainer.__init__)
    assert "self.__class__.__name__ + '__' + self.plans_manager.plans_name + \"__\" + configuration" in source


def test_checkpoint_keys():
    source = inspect.getsource(nnUNetTrainer.save_checkpoint)
    for key in ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes", "current_epoch"):
        assert f"'{key}'" in source


# --- finding trainers, commands -----------------------------------------------------------------------------------


def test_the_search_asks_a_modules_getattr(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    assert recursive_find_trainer_class_by_name("nnUNetTrainerKD").__module__ == "nnkd.training.trainer"


def test_the_search_raises_runtime_error_for_unknown_names(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    with pytest.raises(RuntimeError):
        recursive_find_trainer_class_by_name("nnUNetTrainerNobody")


def test_run_training():
    assert names(running.run_training)[:12] == [
        "dataset_name_or_id", "configuration", "fold", "trainer_class_name", "plans_identifier", "pretrained_weights",
        "num_gpus", "export_validation_probabilities", "continue_training", "only_run_validation",
        "disable_checkpointing", "val_with_best",
    ]  # fmt: skip
    assert "device" in names(running.run_training)


def test_pretrained_weights_leave_seg_layers_out_and_assert():
    source = inspect.getsource(pretrained.load_pretrained_weights)
    assert "'.seg_layers.'" in source
    assert "assert key in pretrained_dict" in source


def test_zero_loader_processes(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    assert get_allowed_n_proc_DA() == 0


# --- loading ------------------------------------------------------------------------------------------------------


def test_loader_arguments():
    wanted = ["data", "batch_size", "patch_size", "final_patch_size", "label_manager"]
    assert names(nnUNetDataLoader.__init__)[:5] == wanted
    keywords = {"oversample_foreground_percent", "probabilistic_oversampling", "transforms"}
    assert keywords <= set(names(nnUNetDataLoader.__init__))


def test_loader_attributes_and_methods():
    source = inspect.getsource(nnUNetDataLoader)
    for name in ("self._data.load_case", "self.patch_size_was_2d", "self.transforms", "self.get_do_oversample ="):
        assert name in source
    assert names(nnUNetDataLoader.get_bbox)[:3] == ["data_shape", "force_fg", "class_locations"]


def test_batch_keys():
    source = inspect.getsource(nnUNetDataLoader.generate_train_batch)
    assert all(f"'{key}'" in source for key in ("data", "target", "keys"))


def test_datasets_list_every_b2nd_file(tmp_path):
    for name in ("a.b2nd", "a_seg.b2nd", "a.pkl", "b.b2nd"):
        (tmp_path / name).touch()
    assert sorted(nnUNetDatasetBlosc2.get_identifiers(str(tmp_path))) == ["a", "b"]


def test_block_sizes():
    blocks, chunks = comp_blosc2_params((2, 8, 24, 20), (16, 16), 1)
    assert len(blocks) == len(chunks) == 4


# --- transforms ---------------------------------------------------------------------------------------------------


def test_the_spatial_transform_comes_first_and_alone():
    kinds = [type(t) for t in transforms().transforms]
    assert kinds[0] is SpatialTransform
    assert kinds.count(SpatialTransform) == 1


@pytest.mark.parametrize("turned", [False, True])
def test_parameters_of_the_spatial_transform(turned):
    transform = spatial(p_rotation=float(turned), rotation=(1.0, 1.0))
    parameters = transform.get_parameters(image=torch.zeros(1, 16, 16))
    assert (parameters["grid"] is None) == (not turned)
    assert "center_location_in_pixels" in parameters
    assert tuple(transform.patch_size) == (8, 8)


def test_a_pure_crop_floors_its_centre():
    image = torch.arange(256.0).reshape(1, 16, 16)
    transform = spatial()
    parameters = transform.get_parameters(image=image)
    start = [int(np.floor(c)) - 4 for c in parameters["center_location_in_pixels"]]
    expected = image[:, start[0] : start[0] + 8, start[1] : start[1] + 8]
    assert torch.equal(transform.apply({"image": image}, **parameters)["image"], expected)


def test_regression_target_goes_through_all_transforms():
    image = torch.rand(1, 16, 16)
    done = ComposeTransforms([spatial()])(image=image, regression_target=image.clone())
    assert torch.equal(done["image"], done["regression_target"])
    assert "_apply_to_regr_target" in BasicTransform.__dict__


def test_unknown_keys_pass_through():
    assert ComposeTransforms([spatial()])(image=torch.rand(1, 16, 16), votes="kept")["votes"] == "kept"


def test_slice_by_slice_transforms_know_the_regression_target():
    from batchgeneratorsv2.transforms.utils import pseudo2d

    assert "nchannels_regr_trg" in inspect.getsource(pseudo2d)


# --- preprocessing ------------------------------------------------------------------------------------------------


def test_preprocessor():
    wanted = ["output_filename_truncated", "image_files", "seg_file", "plans_manager", "configuration_manager"]
    assert names(DefaultPreprocessor.run_case_save)[:5] == wanted
    wanted = ["image_files", "seg_file", "plans_manager", "configuration_manager", "dataset_json"]
    assert names(DefaultPreprocessor.run_case)[:5] == wanted


def test_outside_is_labelled_minus_one_within_the_crop():
    image = np.zeros((1, 4, 8, 8), np.float32)
    image[:, 1:3, 2:6, 2:6] = 1
    image[:, 1, 2, 2] = 0
    _, seg, bbox = crop_to_nonzero(image, np.zeros((1, 4, 8, 8), np.int8))
    assert [list(b) for b in bbox] == [[1, 3], [2, 6], [2, 6]]
    assert seg.min() == -1
    np.testing.assert_array_equal(seg[0] == -1, ~create_nonzero_mask(image)[1:3, 2:6, 2:6])


def test_labels_are_resampled_by_arg_max():
    quarters = np.kron([[1, 2], [3, 4]], np.ones((4, 4))).astype(np.int16)
    # where four labels meet none has half of the weight: before batchgenerators 0.25.5 a hole was left there
    assert set(np.unique(resize_segmentation(quarters, (9, 9), order=1))) == {1, 2, 3, 4}


def test_new_shapes():
    assert list(compute_new_shape((4, 10, 10), (2.0, 1.0, 1.0), (1.0, 2.0, 2.0))) == [8, 5, 5]


# --- prediction ---------------------------------------------------------------------------------------------------


def test_predictor():
    assert names(nnUNetPredictor.manual_initialization) == [
        "network", "plans_manager", "configuration_manager", "parameters", "dataset_json", "trainer_name",
        "inference_allowed_mirroring_axes",
    ]  # fmt: skip
    wanted = {"tile_step_size", "use_gaussian", "use_mirroring", "perform_everything_on_device", "device", "allow_tqdm"}
    assert wanted <= set(names(nnUNetPredictor.__init__))
    assert callable(nnUNetPredictor.predict_logits_from_preprocessed_data)


def test_export():
    assert names(export_prediction_from_logits)[:7] == [
        "predicted_array_or_file", "properties_dict", "configuration_manager", "plans_manager",
        "dataset_json_dict_or_file", "output_file_truncated", "save_probabilities",
    ]  # fmt: skip


def test_the_export_we_do_ourselves():
    assert names(convert_predicted_logits_to_segmentation_with_correct_shape) == [
        "predicted_logits", "plans_manager", "configuration_manager", "label_manager", "properties_dict",
        "return_probabilities", "num_threads_torch",
    ]  # fmt: skip
    assert names(resample_data_or_seg_to_shape) == [
        "data", "new_shape", "current_spacing", "new_spacing", "is_seg", "order", "order_z", "force_separate_z",
        "separate_z_anisotropy_threshold",
    ]  # fmt: skip
    assert names(determine_do_sep_z_and_axis) == [
        "force_separate_z", "current_spacing", "new_spacing", "separate_z_anisotropy_threshold",
    ]  # fmt: skip


def test_the_sliding_window_we_do_ourselves():
    """nnkd.inference.samples goes over nnU-Net's windows with nnU-Net's weights; its test compares the logits."""
    assert names(nnUNetPredictor._internal_get_sliding_window_slicers) == ["image_size"]
    gaussian = compute_gaussian((4, 4), sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu"))
    assert gaussian.dtype == torch.float16
    assert gaussian.min() > 0
    _, inside = pad_nd_image(torch.zeros(1, 2, 3, 5), (8, 4), "constant", {"value": 0}, True, None)
    assert tuple(inside) == (slice(0, 1), slice(0, 2), slice(2, 5), slice(0, 5))


def test_folders_are_read_from_the_environment_late(monkeypatch, tmp_path):
    from nnunetv2.paths import nnUNet_results

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    assert os.path.join(nnUNet_results, "x") == str(tmp_path / "x")
