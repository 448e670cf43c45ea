"""Tests of nnkd.training.recipe_flags; nnKD_train's own tests see most of it."""

from __future__ import annotations

import pytest

from nnkd.errors import UnknownNameError
from nnkd.training import recipe_flags


def test_datasets_are_named_once_and_the_first_stays_first(nnunet_folders):
    for name in ("Dataset702_B", "Dataset701_A"):
        (nnunet_folders / "nnUNet_raw" / name).mkdir()
    assert recipe_flags.dataset_names("702", ["701", "Dataset702_B"]) == ("Dataset702_B", "Dataset701_A")
    with pytest.raises(UnknownNameError, match="799"):
        recipe_flags.dataset_names("702", ["799"])
