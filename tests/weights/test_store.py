"""nnkd.weights.store and nnkd.weights.downloads, nnkd.steps.weights and nnKD_weights, with a server of our own."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import platformdirs
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from nnkd import paths
from nnkd.cli.weights import main
from nnkd.errors import UnknownNameError, WeightsError
from nnkd.steps.weights import fetch_weights
from nnkd.weights import downloads
from nnkd.weights import store as weight_store
from nnkd.weights.store import Checkpoint, WeightStore, find, known, of_sha256, of_teacher

CONTENT = bytes(range(256)) * 4000


class Server(BaseHTTPRequestHandler):
    """Sends CONTENT: with or without ranges, whole or cut short, and remembers what was asked for."""

    ranges = True
    cut: int | None = None
    status = 200
    asked: list[str | None]

    def do_GET(self):
        asked = self.headers.get("Range")
        type(self).asked.append(asked)
        if self.status != 200:
            self.send_error(self.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:] if self.cut is None else CONTENT[start : start + self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server's class, to be set up, with its address as `url`."""
    monkeypatch.setenv("no_proxy", "*")
    made = type("Mine", (Server,), {"asked": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), made)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{running.server_port}/net.pth"
    yield made
    running.shutdown()
    running.server_close()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("nnKD_cache", str(tmp_path / "cache"))
    return WeightStore()


def checkpoint(url: str = "", **changed) -> Checkpoint:
    digest = hashlib.sha256(CONTENT).hexdigest()
    made = Checkpoint("net", "toy", {"model": "b"}, "net.pth", len(CONTENT), digest, "MIT", url, "page", "us 2026")
    return replace(made, **changed)


# --- the table --------------------------------------------------------------------------------------------------


def test_the_table_is_whole():
    rows = known()
    assert len({row.name for row in rows}) == len({row.file for row in rows}) == len(rows)
    assert len({(row.teacher, *row.options.items()) for row in rows}) == len(rows)
    for row in rows:
        assert not row.sha256 or (len(row.sha256) == 64 and row.sha256 == row.sha256.lower() and row.size)
        assert all((row.licence, row.paper, row.page))
        assert row.url.rpartition("/")[2] in ("", row.file)
        assert row.url.startswith("https://") or row.remark
        assert find(row.name) is row
        assert of_teacher(row.teacher, row.options) is row
        assert not row.sha256 or of_sha256(row.sha256.upper()) is row
    assert of_teacher("sam", {"model": "vit_x"}) is None
    assert of_sha256("") is None or not of_sha256("").sha256


def test_an_unknown_name():
    with pytest.raises(UnknownNameError, match=r"nnkd knows sam_vit_b, .* Did you mean 'sam_vit_b'"):
        find("sam_vitb")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"nnKD_cache": "/x/y"}, "/x/y"),
        ("linux", {"XDG_CACHE_HOME": "/c"}, "/c/nnkd"),
        ("linux", {}, "~/.cache/nnkd"),
        ("darwin", {}, "~/Library/Caches/nnkd"),
    ],
)
def test_where_the_cache_is(monkeypatch, platform, variables, expected):
    monkeypatch.setattr(platformdirs, "PlatformDirs", {"linux": Unix, "darwin": MacOS}[platform])
    for name in ("nnKD_cache", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(paths.cache_folder()) == os.path.expanduser(expected)


# --- fetch ------------------------------------------------------------------------------------------------------


def test_fetch(server, store):
    said, seen = [], []
    one = checkpoint(server.url)
    report = fetch_weights(one, store, announce=said.append, progress=lambda *now: seen.append(now))
    assert report.done == ["net"]
    assert store.file(one).read_bytes() == CONTENT
    assert "licence: MIT" in said[1]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not store.unfinished(one).exists()
    assert fetch_weights(one, store).skipped == ["net"]
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_goes_on_where_it_stopped(server, store, ranges):
    one = checkpoint(server.url)
    server.cut = 300_000
    with pytest.raises(WeightsError, match=f"broke off after 300000 of {len(CONTENT)} bytes.*goes on from there"):
        fetch_weights(one, store)
    assert store.state(one) == "unfinished"
    assert not store.file(one).exists()
    server.cut, server.ranges = None, ranges
    fetch_weights(one, store)
    assert store.file(one).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_part_that_is_too_long_is_begun_anew(server, store):
    for size in (len(CONTENT), None):
        one = checkpoint(server.url, size=size)
        store.folder.mkdir(parents=True, exist_ok=True)
        store.unfinished(one).write_bytes(CONTENT + b"more")
        fetch_weights(one, store)
        assert store.file(one).read_bytes() == CONTENT
        store.file(one).unlink()


def test_a_whole_part_is_not_asked_for_again(server, store):
    one = checkpoint(server.url)
    store.folder.mkdir(parents=True)
    store.unfinished(one).write_bytes(CONTENT)
    fetch_weights(one, store)
    assert (server.asked, store.state(one)) == ([], "here")


def test_another_file_is_not_kept(server, store):
    with pytest.raises(WeightsError, match=r"another file: its sha256 is .*, but 000000000000\.\.\. is expected"):
        fetch_weights(checkpoint(server.url, sha256="0" * 64), store)
    assert [path.name for path in store.folder.iterdir() if not path.name.startswith(".")] == []
    with pytest.raises(WeightsError, match=f"offers {len(CONTENT)} bytes of net.pth, but 7 are expected"):
        fetch_weights(checkpoint(server.url, size=7), store)


def test_a_changed_file_in_the_store_is_said(server, store):
    one = checkpoint(server.url)
    store.folder.mkdir(parents=True)
    store.file(one).write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="is in the store, but it has"):
        fetch_weights(one, store)
    assert server.asked == []


def test_the_server_says_no(server, store):
    server.status = 404
    with pytest.raises(WeightsError, match="answers 404"):
        fetch_weights(checkpoint(server.url), store)


def test_no_network_says_which_file_goes_where(store, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/net.pth"
    with pytest.raises(downloads.NoConnectionError) as error:
        fetch_weights(checkpoint(url), store)
    says = str(error.value)
    assert "cannot be reached" in says
    assert f"Get net.pth of {len(CONTENT)} bytes from {url}" in says
    assert f"put it at {store.folder / 'net.pth'}, or run nnKD_weights import FILE" in says


def test_without_an_address(store):
    said = []
    with pytest.raises(WeightsError, match=r"knows no address of net.*from page .* import FILE --as net"):
        fetch_weights(checkpoint(sha256="", remark="Ask them."), store, announce=said.append)
    assert "licence: MIT. Ask them." in said


# --- verify and import ------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """A small table in place of the real one: a checkpoint with and one without a sha256."""
    rows = (checkpoint(), checkpoint(name="bare", teacher="other", options={}, file="bare.pth", size=None, sha256=""))
    monkeypatch.setattr(weight_store, "known", lambda: rows)
    monkeypatch.setattr("nnkd.cli.weights.known", lambda: rows)
    return rows


def test_import_recognises_a_file_by_its_content_or_name(store, table, tmp_path, capsys):
    file = tmp_path / "download (1).bin"
    file.write_bytes(CONTENT)
    assert main(["import", str(file)]) == 0
    assert "net (toy b), checked by its sha256; licence: MIT" in capsys.readouterr().out
    assert store.file(table[0]).read_bytes() == CONTENT
    assert store.take_in(store.file(table[0])) is table[0]  # put there by hand
    other = tmp_path / "x.pth"
    other.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"is no checkpoint that nnkd knows.*weights=FILE"):
        store.take_in(other)
    assert store.take_in(other, "bare") is table[1]
    assert store.located("other") == store.file(table[1])
    named = tmp_path / "net.pth"
    named.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(WeightsError, match=r"'net.pth' is not toy b: its sha256 is"):
        store.take_in(named)
    with pytest.raises(WeightsError, match=r"'download \(1\).bin' is toy b, not other"):
        store.take_in(file, "bare")
    with pytest.raises(WeightsError, match=r"no file 'gone.pth'"):
        store.take_in(tmp_path / "gone.pth")
    assert not [path for path in store.folder.iterdir() if path.name.startswith(".writing")]


def test_verify(store, table, capsys):
    assert main(["verify"]) == 0
    assert "nothing is there yet" in capsys.readouterr().out
    store.folder.mkdir(parents=True)
    store.file(table[0]).write_bytes(CONTENT)
    store.file(table[1]).write_bytes(b"1")
    (store.folder / "mine.pth").write_bytes(b"1")
    assert main(["verify"]) == 0
    out = capsys.readouterr().out
    assert "net.pth: toy b, whole and unchanged" in out
    assert "bare.pth: taken for other; no sha256" in out
    assert "mine.pth: nnkd knows no checkpoint" in out
    store.file(table[0]).write_bytes(CONTENT[1:])
    store.file(table[1]).unlink()
    store.unfinished(table[1]).write_bytes(b"12")
    assert main(["verify"]) == 1
    out = capsys.readouterr().out
    assert f"WRONG  net.pth: it has {len(CONTENT) - 1} bytes" in out
    assert "bare.pth.part: 2 bytes so far; nnKD_weights fetch bare goes on" in out
    with pytest.raises(WeightsError, match="Remove it and run nnKD_weights fetch net"):
        store.located("toy", {"model": "b"})


def test_list_and_fetch_on_the_command_line(store, table, server, monkeypatch, capsys):
    rows = (replace(table[0], url=server.url), table[1])
    monkeypatch.setattr(weight_store, "known", lambda: rows)
    assert main(["fetch", "net"]) == 0
    captured = capsys.readouterr()
    assert "licence: MIT" in captured.err
    assert main(["list"]) == 0
    assert "toy.model=b" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["there"] for row in found] == ["here", ""]
    assert main(["fetch", "nett"]) == 1
    assert "Did you mean 'net'" in capsys.readouterr().err
