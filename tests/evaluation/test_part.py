"""Parts with nothing but a section."""

from __future__ import annotations

from nnkd.evaluation.part import Plain


def test_an_earlier_runs_tables_go_and_others_stay(tmp_path):
    for name in ("raters.csv", "means.csv"):
        (tmp_path / name).write_text("x")
    part = Plain("raters", ("raters.csv", "more.csv"))
    part.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["means.csv"]
    assert (part.section(), part.of_folder("a"), part.lines(), part.failures()) == (None, None, [], [])


def test_a_section_alone(tmp_path):
    part = Plain("auxiliaries", content={"notes": []})
    part.write(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert part.section() == {"notes": []}
