"""nnkd.weights.licences."""

from __future__ import annotations

import pytest

from nnkd.weights.licences import announcement, forbids_commerce, restricted


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("CC-BY-NC-4.0", True),
        ("CC BY-NC-SA 4.0", True),
        ("PolyForm-Noncommercial-1.0.0", True),
        ("non-commercial", True),
        ("research and education only", True),
        ("for research use only", True),
        ("MIT, CC-BY-NC-4.0", True),
        ("Apache-2.0", False),
        ("CC-BY-4.0", False),
        ("NCSA", False),
        ("INC", False),
        ("not stated", False),
        ("", False),
    ],
)
def test_licences(licence, forbids):
    assert forbids_commerce(licence) is forbids


def test_announcement():
    free = {"name": "sam", "licence": "Apache-2.0", "weights_licence": "Apache-2.0"}
    bound = {"name": "medsam2", "licence": "Apache-2.0", "weights_licence": "research and education only"}
    assert restricted([free, bound]) == ["medsam2 (research and education only)"]
    assert announcement([free], "this student") == ""
    assert announcement([{"name": "old"}], "this student") == ""
    says = "NOT FOR COMMERCIAL USE: this student inherits the terms of medsam2 (research and education only)."
    assert announcement([free, bound], "this student") == says
