"""participants.tsv and cases.tsv."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.data.groups import groups, known_columns
from nnkd.data.participants import participants_of_cases, read_participants
from nnkd.errors import ParticipantsError
from nnkd.types import Participant

HEADER = "participant_id\tsex\tage\tbmi\tsite\n"


def put(folder: Path, rows: str, name: str = "participants.tsv", header: str = HEADER) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(header + rows, encoding="utf-8")
    return folder


def test_reads_values_units_and_other_columns(tmp_path: Path):
    put(tmp_path, "sub-a\tM\t31.5\t22\tLeeds\nsub-b\tfemale\tn/a\t\tn/a\n")
    people = read_participants(tmp_path)
    assert list(people) == ["sub-a", "sub-b"]
    assert people["sub-a"] == Participant("sub-a", "M", 31.5, 22.0, {"site": "Leeds"})
    assert people["sub-b"] == Participant("sub-b", "F", None, None, {})


@pytest.mark.parametrize("male", ["M", "m", "male", "Male", "MALE", "1"])
def test_sex_spellings(tmp_path: Path, male: str):
    female = {"1": "0"}.get(male, "F")
    put(tmp_path, f"a\t{male}\t1\t20\t\nb\t{female}\t1\t20\t\nc\tn/a\t1\t20\t\n")
    assert [p.sex for p in read_participants(tmp_path).values()] == ["M", "F", None]


def test_digits_for_sex_are_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    put(tmp_path, "a\t1\t1\t20\t\n")
    with caplog.at_level(logging.INFO, logger="nnkd"):
        read_participants(tmp_path)
    assert "0 = female, 1 = male" in caplog.text


def test_columns_in_capitals_and_byte_order_mark(tmp_path: Path):
    (tmp_path / "participants.tsv").write_text("Participant_ID\tSex\tBMI\r\na\tF\t20\r\n\r\n", encoding="utf-8-sig")
    assert read_participants(tmp_path) == {"a": Participant("a", "F", None, 20.0, {})}


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ("a\tM\n", "name\tsex\n", "lacks the column participant_id; it has name, sex"),
        ("a,M\n", "participant_id,sex\n", "separated by tabs"),
        ("a\tM\tF\n", "participant_id\tsex\tsex\n", "column sex twice"),
        ("a\tM\t3\t20\t\nsub-a\tF\t3\t20\t\n", HEADER, "'a' more than once"),
        ("a\tM\t3\t20\t\n\tF\t3\t20\t\n", HEADER, "Line 3 .* names nobody"),
        ("a\tM\tthirty\t20\t\n", HEADER, "Line 2 .* age that is no number"),
        ("a\tM\t121\t20\t\n", HEADER, "age outside 0 to 120 years"),
        ("a\tM\tinf\t20\t\n", HEADER, "age outside 0 to 120 years"),
        ("a\tM\t30\t7.9\t\n", HEADER, "bmi outside 8 to 100 kg/m2"),
        ("a\tM\t30\t24,5\t\n", HEADER, "bmi that is no number"),
        ("a\tboy\t30\t24\t\n", HEADER, "Line 2 .* spells sex"),
        ("a\t2\t30\t24\t\n", HEADER, "Line 2 .* spells sex"),
        ("a\t0\t30\t24\t\nb\tM\t30\t24\t\n", HEADER, "mixes 0/1 and words"),
        ("a\tM\t30\t24\tx\ty\tz\n", HEADER, "no tab-separated UTF-8 table"),
        ("", "", "no tab-separated UTF-8 table"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path: Path, rows: str, header: str, message: str):
    with pytest.raises(ParticipantsError, match=message):
        read_participants(put(tmp_path / "Dataset701_Toy", rows, header=header))


def test_messages_keep_values_of_people_to_themselves(tmp_path: Path):
    with pytest.raises(ParticipantsError) as caught:
        read_participants(put(tmp_path, "a\tM\t30\t7.25\t\n"))
    assert "7.25" not in str(caught.value)


def test_no_file(tmp_path: Path):
    with pytest.raises(ParticipantsError, match=r"has no participants\.tsv"):
        read_participants(tmp_path)
    with pytest.raises(ParticipantsError, match=r"has no participants\.tsv"):
        participants_of_cases(tmp_path, ["a"], required=True)
    assert participants_of_cases(tmp_path, ["a"]) == {"a": Participant("a")}


def test_latin_1_is_named(tmp_path: Path):
    (tmp_path / "participants.tsv").write_bytes(HEADER.encode() + b"M\xfcller\tM\t30\t24\t\n")
    with pytest.raises(ParticipantsError, match="UTF-8"):
        read_participants(tmp_path)


def test_cases_find_their_person_with_and_without_prefix(tmp_path: Path):
    put(tmp_path, "sub-a\tM\t30\t24\t\nb\tF\t40\t22\t\n")
    found = participants_of_cases(tmp_path, ["a", "sub-b", "stranger"])
    assert {case: p.identifier for case, p in found.items()} == {"a": "sub-a", "sub-b": "b", "stranger": "stranger"}
    assert found["stranger"].sex is None
    with pytest.raises(ParticipantsError, match="no row for 1 of 3 cases \\('stranger'\\)"):
        participants_of_cases(tmp_path, ["a", "sub-b", "stranger"], required=True)


def test_cases_tsv_maps_several_cases_to_one_person(tmp_path: Path):
    put(tmp_path, "sub-a\tM\t30\t24\t\n")
    put(tmp_path, "scan1\ta\nscan2\tsub-a\n", "cases.tsv", "case\tparticipant_id\n")
    found = participants_of_cases(tmp_path, ["scan1", "scan2", "a"], required=True)
    assert {p.identifier for p in found.values()} == {"sub-a"}


def test_cases_tsv_alone_says_who_shares_a_person(tmp_path: Path):
    put(tmp_path, "scan1\tx\nscan2\tx\n", "cases.tsv", "case\tparticipant_id\n")
    found = participants_of_cases(tmp_path, ["scan1", "scan2", "scan3"])
    assert [p.identifier for p in found.values()] == ["x", "x", "scan3"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("scan1\tnobody\n", "names 'nobody', but participants.tsv has no such participant"),
        ("scan1\ta\nscan1\ta\n", "'scan1' more than once"),
        ("scan1\t\n", "names no participant for 'scan1'"),
    ],
)
def test_bad_cases_tsv(tmp_path: Path, rows: str, message: str):
    put(tmp_path, "a\tM\t30\t24\t\n")
    put(tmp_path, rows, "cases.tsv", "case\tparticipant_id\n")
    with pytest.raises(ParticipantsError, match=message):
        participants_of_cases(tmp_path, ["scan1"])


def test_groups_by_words_edges_and_quantiles():
    people = [Participant(str(n), "F" if n % 2 else "M", 20.0 + n, None, {"site": "AB"[n % 2]}) for n in range(40)]
    assert groups(people, "sex")["1"] == "F"
    assert groups(people, "site")["2"] == "A"
    by_age = groups(people, "age", edges=[30, 40])
    assert (by_age["9"], by_age["10"], by_age["20"]) == ("<30", "30-40", ">=40")
    quartiles = list(groups(people, "age").values())
    assert sorted(quartiles.count(name) for name in set(quartiles)) == [10, 10, 10, 10]
    assert groups([*people, Participant("x")], "age")["x"] == "missing"
    assert known_columns(people) == ["sex", "age", "site"]


def test_groups_refuse_unknown_columns_and_edges_for_text():
    people = [Participant("a", "F", 30.0, None, {"site": "A"})]
    with pytest.raises(ParticipantsError, match=r"'bmi'\. The columns with values are sex, age, site"):
        groups(people, "bmi")
    with pytest.raises(ParticipantsError, match="holds text"):
        groups(people, "site", edges=[1])


def test_participants_pickle():
    person = Participant("a", "F", 30.0, 20.0, {"site": "A"})
    read_back = pickle.loads(pickle.dumps(person))
    assert read_back == person


@pytest.mark.heavy
@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[A-Za-z0-9_]{1,8}", fullmatch=True),
            st.sampled_from(["M", "F", None]),
            st.none() | st.floats(0, 120),
            st.none() | st.floats(8, 100),
        ),
        max_size=12,
        unique_by=lambda row: row[0],
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list):
    rows = [row for row in rows if row[0].lower() not in ("na", "nan")]
    text = "".join("\t".join("n/a" if v is None else str(v) for v in row) + "\tx\n" for row in rows)
    folder = put(tmp_path_factory.mktemp("d"), text)
    assert read_participants(folder) == {row[0]: Participant(*row, {"site": "x"}) for row in rows}


def test_a_table_of_gibibytes_is_not_read(tmp_path):
    with open(tmp_path / "participants.tsv", "wb") as file:
        file.write(b"participant_id\tage\n")
        file.truncate(2**31)  # takes no room on the disk
    with pytest.raises(ParticipantsError, match=r"has more than 64 MiB.*NNKD_MAX_JSON"):
        read_participants(tmp_path)
