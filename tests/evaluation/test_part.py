"""Parts with nothing but a section."""

from __future__ import annotations

from nnkd.evaluation.part import Plain


def test_a_part_without_anything(tmp_path):
    part = Plain("raters")
    part.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (part.section(), part.of_folder("a"), part.lines(), part.failures()) == (None, None, [], [])


def test_a_section_alone(tmp_path):
    part = Plain("auxiliaries", content={"notes": []})
    part.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert part.section() == {"notes": []}
