"""nnkd.training.options."""

from __future__ import annotations

import pytest

from nnkd.training.options import TrainingOptions

VOLUMES = {"original_median_shape_after_transp": [40, 56, 40]}
PICTURES = {"original_median_shape_after_transp": [1, 565, 584]}


@pytest.mark.parametrize(
    ("plans", "dimensions", "given", "expected"),
    [
        (VOLUMES, 2, {}, (False, 15.0)),
        (VOLUMES, 3, {}, (True, None)),
        (PICTURES, 2, {}, (True, None)),
        (VOLUMES, 2, {"mirroring": True, "rotation": 180.0}, (True, 180.0)),
        (VOLUMES, 2, {"rotation": 0.0}, (False, 0.0)),
        (PICTURES, 2, {"mirroring": False}, (False, None)),
    ],
)
def test_slices_of_volumes_stay_upright_unless_told_otherwise(plans, dimensions, given, expected):
    assert TrainingOptions(**given).movement(plans, dimensions) == expected
