"""Tests of nnkd.data.origins: what changed, and hashes that are kept from run to run."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkd.data import origins
from nnkd.data.origins import Hashes, difference, made_anew, of_settings

NAMES = st.sampled_from(["image 0", "image 1", "label map", "settings", "label meaning"])
RECORDS = st.dictionaries(NAMES, st.sampled_from(["a", "b"]))
SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(origins, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    """One that was written long before."""
    (tmp_path / "images").mkdir()
    file = tmp_path / "images" / "patient_0000.nii"
    file.write_bytes(b"before")
    return file


@pytest.fixture
def later(monkeypatch) -> None:
    """As if all files had been written a minute ago."""
    now = time.time_ns
    monkeypatch.setattr(origins.time, "time_ns", lambda: now() + 60_000_000_000)


def hash_of(file: Path) -> str:
    """In a run of its own."""
    hashes = Hashes(file.parent)
    digest = hashes.of(file)
    hashes.save()
    return digest


@given(RECORDS, RECORDS)
def test_only_the_same_holds_and_whatever_differs_is_named(made, now):
    said = difference(made, now)
    assert (said == "") == (made == now)
    apart = {name for name in made.keys() | now.keys() if made.get(name) != now.get(name)}
    if len(apart) <= 3:
        assert all(name in said for name in apart)


def test_words_of_a_difference():
    assert difference(None, {}) == "nothing says what it was made from"
    assert difference({"a": "1", "b": "1"}, {"b": "2", "c": "1"}) == "without a; new c; changed b"
    many = {f"image {k}": "1" for k in range(5)}
    assert difference({}, many) == "new image 0, image 1, image 2 and 2 more"
    assert made_anew(["changed a", "changed b", "changed b"]) == "2 made anew: changed b; 1 made anew: changed a"
    assert made_anew([]) == ""


@given(SETTINGS, SETTINGS)
def test_settings_have_one_digest_as_far_as_json_tells_them_apart(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (of_settings(one) == of_settings(other)) == same
    assert of_settings([1, 2]) != of_settings([2, 1])
    assert of_settings({"a": 1, "b": 2}) == of_settings({"b": 2, "a": 1})


def test_a_file_that_is_the_same_is_read_once(cache, file, later, monkeypatch):
    assert hash_of(file) == hashlib.sha256(b"before").hexdigest()
    monkeypatch.setattr(origins, "sha256", lambda _: pytest.fail("it was read again"))
    assert hash_of(file) == hashlib.sha256(b"before").hexdigest()


@pytest.mark.parametrize("how", ["in place", "old time put back", "exchanged"])
def test_a_file_of_the_same_size_that_changed_is_seen(cache, file, later, how):
    hash_of(file)
    before = file.stat()
    if how == "exchanged":
        file.rename(file.with_name("old"))
    time.sleep(0.02)
    file.write_bytes(b"after!")
    if how != "in place":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_of(file) == hashlib.sha256(b"after!").hexdigest()


def test_a_hash_within_the_grain_of_time_stamps_is_not_kept(cache, file):
    hash_of(file)  # of a file written just now
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize("content", ["{", "[1]", '{"x": 1}', '{"x": [1, 2]}', "\udcff"])
def test_a_broken_cache_is_read_anew(cache, file, later, content):
    hash_of(file)
    kept = next(cache.rglob("*.json"))
    kept.write_text(content, errors="surrogateescape")
    assert hash_of(file) == hashlib.sha256(b"before").hexdigest()
    assert len(json.loads(kept.read_text())) >= 1


def test_the_cache_tells_neither_folder_nor_file(cache, file, later):
    hash_of(file)
    kept = next(cache.rglob("*.json"))
    said = f"{kept.relative_to(cache)} {kept.read_text()}"
    assert "patient" not in said
    assert str(file.parent.parent) not in said
    assert "images" not in said


def test_where_nothing_can_be_written_every_run_reads(tmp_path, file, later, monkeypatch):
    (tmp_path / "cache").write_text("a file, where a folder was to be")
    monkeypatch.setattr(origins, "cache_folder", lambda: tmp_path / "cache")
    assert hash_of(file) == hash_of(file) == hashlib.sha256(b"before").hexdigest()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_no_text(cache, file, later):
    other = Path(os.fsdecode(os.fsencode(file.parent) + b"/f\xfcr.nii"))
    other.write_bytes(b"before")
    assert hash_of(other) == hash_of(file)
    assert of_settings(["f\udcfcr"]) != of_settings(["fuer"])


def test_two_processes_keep_what_either_read(cache, file, later):
    other = file.with_name("other")
    other.write_bytes(b"other")
    first, second = Hashes(file.parent), Hashes(file.parent)
    first.of(file)
    second.of(other)
    first.save()
    second.save()
    assert len(json.loads(next(cache.rglob("*.json")).read_text())) == 2
