from __future__ import annotations

import pytest
from nnkd_dataset_conversion.people import write_people
from nnkd_dataset_conversion.target import Target

from nnkd.data.participants import participants_of_cases, read_participants


@pytest.fixture
def folder(nnunet_folders):
    made = nnunet_folders / "nnUNet_raw" / "Dataset701_People"
    made.mkdir()
    return made


def test_two_visits_of_a_person(folder):
    people = {"a_1": "a", "a_2": "a", "b_1": "b"}
    write_people("Dataset701_People", people, {"a": {"sex": "F", "site": "x\ty"}, "b": {"age": "41"}})
    found = participants_of_cases(folder, list(people), required=True)
    assert {case: person.identifier for case, person in found.items()} == people
    assert (found["a_2"].sex, found["a_2"].age, dict(found["a_2"].attributes)) == ("F", None, {"site": "x y"})
    assert (found["b_1"].sex, found["b_1"].age) == (None, 41.0)


def test_edited_rows_stay_and_new_ones_are_added(folder):
    write_people(Target("Dataset701_People"), {"a": "a"}, {"a": {"sex": "F"}})
    assert not (folder / "cases.tsv").exists()
    file = folder / "participants.tsv"
    file.write_text(file.read_text().replace("F", "M"))
    write_people("Dataset701_People", {"a": "a", "b": "b"}, {"a": {"sex": "F"}, "b": {"sex": "F"}})
    assert {name: person.sex for name, person in read_participants(folder).items()} == {"a": "M", "b": "F"}
    file.write_text("participant_id\tage\na\t3\n")
    write_people("Dataset701_People", {"b": "b"}, {"b": {"sex": "F"}})
    assert file.read_text() == "participant_id\tage\na\t3\n"


def test_tables_of_the_user_come_first(folder, tmp_path):
    given = Target("Dataset701_People", participants=tmp_path / "p.tsv", cases_table=tmp_path / "c.tsv")
    write_people(given, {"a_1": "a"}, {"a": {"sex": "F"}})
    assert list(folder.iterdir()) == []
