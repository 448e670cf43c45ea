from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from nnkd import limits
from nnkd.data.archives import is_archive, unpack
from nnkd.errors import DatasetError


def tar(file: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


@pytest.mark.parametrize(
    ("name", "mode"), [("Task01_A.tar", "w"), ("Task01_A.tar.gz", "w:gz"), ("Task01_A.tgz", "w:gz")]
)
def test_tar_with_one_folder_becomes_that_folder(tmp_path, name, mode):
    members = {"Other/imagesTr/a.txt": b"a", "Other/imagesTr/._a.txt": b"shadow", "Other/b.txt": b"b"}
    archive = tar(tmp_path / name, members, mode)
    assert is_archive(archive)
    folder = unpack(archive)
    assert folder == tmp_path / "Task01_A"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "b.txt",
        "imagesTr/a.txt",
    ]
    (folder / "b.txt").write_text("mine")
    assert (unpack(archive) / "b.txt").read_text() == "mine"  # unpacked once


def test_zip_without_one_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a/x.txt", "x")
        archive.writestr("b.txt", "b")
        archive.writestr("__MACOSX/b.txt", "shadow")
    folder = unpack(tmp_path / "data.zip")
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b.txt"]


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "a/../../evil", "C:/evil", "..\\evil", "\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_out_are_refused_before_anything_is_written(tmp_path, name, kind):
    archive = tmp_path / f"bad.{kind}"
    if kind == "tar":
        tar(archive, {"good.txt": b"", name: b"evil"})
    else:
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("good.txt", "")
            opened.writestr(zipfile.ZipInfo(name), "evil")
    with pytest.raises(DatasetError, match="outside its folder"):
        unpack(archive)
    assert [p.name for p in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DatasetError, match="link or a device"):
        unpack(tmp_path / "bad.tar")


def test_zip_links_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DatasetError, match="is a link"):
        unpack(tmp_path / "bad.zip")


@pytest.mark.parametrize("name", ["Task01_A.tar", "Task01_A.tar.gz", "Task01_A.zip"])
def test_broken_archives_leave_nothing(tmp_path, name):
    archive = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("a.txt", "x" * 5000)
    else:
        tar(archive, {"a/b.txt": bytes(range(256)) * 100}, "w:gz" if name.endswith("gz") else "w")
    archive.write_bytes(archive.read_bytes()[:3000] if name.endswith("tar") else archive.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="is broken or no archive"):
        unpack(archive)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_there_already_is_told(tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("a.txt", "new")
    (tmp_path / "a").mkdir()
    assert unpack(tmp_path / "a.zip") == tmp_path / "a"
    assert "'a.zip' was not unpacked: the folder 'a' beside it was taken" in caplog.text


def test_a_password_is_no_broken_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("a.txt", "x")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag "encrypted" of both headers
        content[content.index(mark) + flags] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DatasetError, match=r"'a\.zip' cannot be unpacked \(it has a password\)\. Unpack it yourself"):
        unpack(tmp_path / "a.zip")  # without the names of its files, which may be a patient's
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_archives_over_a_limit_name_what_raises_it(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.txt", "x" * 100_000)
        opened.writestr("b.txt", "x")
    monkeypatch.setenv("NNKD_MAX_MEMBERS", "1")
    with pytest.raises(DatasetError, match=r"more than 1 members.*NNKD_MAX_MEMBERS"):
        unpack(tmp_path / "a.zip")
    monkeypatch.delenv("NNKD_MAX_MEMBERS")
    monkeypatch.setattr(limits, "ALWAYS", 1000)
    monkeypatch.setenv("NNKD_MAX_RATIO", "50")
    with pytest.raises(DatasetError, match=r"times its own size.*NNKD_MAX_RATIO"):
        unpack(tmp_path / "a.zip")
    monkeypatch.setenv("NNKD_MAX_RATIO", "5000")
    assert unpack(tmp_path / "a.zip").is_dir()
