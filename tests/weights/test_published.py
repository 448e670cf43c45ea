"""nnkd.weights.published: files that are no checkpoints."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nnkd.errors import WeightsError
from nnkd.weights.published import everything


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
