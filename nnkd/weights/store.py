"""Published checkpoints: the table of those that nnkd knows, and the folder in which they are kept. No torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from nnkd import paths
from nnkd.errors import ReplacingError, UnknownNameError, WeightsError
from nnkd.files import atomic, read_json, sha256

TABLE = Path(__file__).parent / "tables" / "weights.json"
UNFINISHED = ".part"  # behind the names of downloads that are not whole yet


@dataclass(frozen=True)
class Checkpoint:
    """A row of the table `nnkd/weights/tables/weights.json`.

    Sizes and sha256 are what several people wrote down independently of each other after downloading the file.

    Attributes:
        name: What `nnKD_weights` calls it.
        teacher: The teacher that it belongs to.
        options: Options of that teacher with which it is used, such as {"model": "vit_b"}.
        file: Its name in the store, which is the published one if there is one.
        size: Bytes; None if not known.
        sha256: Hexadecimal; empty if not known.
        licence: SPDX name.
        url: Where it can be downloaded from; empty if nowhere without a browser or a package manager.
        page: The project's page.
        paper: What to cite.
        remark: What else to know, as sentences.
    """

    name: str
    teacher: str
    options: Mapping[str, str]
    file: str
    size: int | None
    sha256: str
    licence: str
    url: str
    page: str
    paper: str
    remark: str = ""

    @property
    def title(self) -> str:
        """The teacher and its variant, such as "sam vit_b"."""
        return " ".join((self.teacher, *self.options.values()))


@dataclass(frozen=True)
class Verdict:
    """What is true of a file in the store; `problem` is empty if nothing is wrong with it."""

    file: str
    text: str
    problem: str = ""


@cache
def known() -> tuple[Checkpoint, ...]:
    """The table."""
    return tuple(Checkpoint(**row) for row in read_json(TABLE))


def find(name: str) -> Checkpoint:
    """A checkpoint by its name.

    Raises:
        UnknownNameError: If the table has none of that name.
    """
    names = {checkpoint.name: checkpoint for checkpoint in known()}
    if name not in names:
        close = get_close_matches(name, names, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise UnknownNameError(f"There is no checkpoint '{name}'; nnkd knows {', '.join(names)}.{hint}")
    return names[name]


def of_sha256(digest: str) -> Checkpoint | None:
    """The checkpoint that a sha256 belongs to."""
    return next((checkpoint for checkpoint in known() if checkpoint.sha256 == digest.lower()), None)


def of_teacher(teacher: str, options: Mapping[str, str] | None = None) -> Checkpoint | None:
    """The checkpoint that a teacher uses with these options."""
    wanted = dict(options or {})
    return next((c for c in known() if c.teacher == teacher and dict(c.options) == wanted), None)


class WeightStore:
    """The folder in which checkpoints are kept: `weights` in `paths.cache_folder`.

    Attributes:
        folder: Where it is; made when something is first put there.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = paths.cache_folder() / "weights" if folder is None else folder

    def file(self, checkpoint: Checkpoint) -> Path:
        """Where a checkpoint lies, or would."""
        return self.folder / checkpoint.file

    def state(self, checkpoint: Checkpoint) -> str:
        """ "here", "unfinished" or "", without reading the file's content."""
        if self.file(checkpoint).is_file():
            return "here"
        return "unfinished" if self.unfinished(checkpoint).is_file() else ""

    def unfinished(self, checkpoint: Checkpoint) -> Path:
        """Where a download grows until it is whole."""
        return self.folder / f"{checkpoint.file}{UNFINISHED}"

    def placing(self, checkpoint: Checkpoint) -> str:
        """How to bring a checkpoint here without nnkd's help, as a sentence."""
        size = f" of {checkpoint.size} bytes" if checkpoint.size else ""
        place = f"put it at {self.file(checkpoint)}, or run nnKD_weights import FILE"
        if not checkpoint.sha256:
            place = f"run nnKD_weights import FILE --as {checkpoint.name}"
        return f"Get {checkpoint.file}{size} from {checkpoint.url or checkpoint.page} on any machine and {place}."

    def verify(self) -> list[Verdict]:
        """Check every file in the store against the table."""
        verdicts = [self._verdict(checkpoint) for checkpoint in known() if self.state(checkpoint)]
        ours = {name for c in known() for name in (c.file, f"{c.file}{UNFINISHED}")}
        strange = sorted(p.name for p in self._content() if p.name not in ours)
        return verdicts + [Verdict(name, "nnkd knows no checkpoint of this name") for name in strange]

    def _content(self) -> Sequence[Path]:
        if not self.folder.is_dir():
            return ()
        return [path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")]

    def _verdict(self, checkpoint: Checkpoint) -> Verdict:
        if self.state(checkpoint) == "unfinished":
            has = self.unfinished(checkpoint).stat().st_size
            whole = f" of {checkpoint.size}" if checkpoint.size else ""
            todo = f"{has}{whole} bytes so far; nnKD_weights fetch {checkpoint.name} goes on"
            return Verdict(self.unfinished(checkpoint).name, todo)
        problem = difference(self.file(checkpoint), checkpoint)
        if problem:
            todo = f"{problem}; remove it and run nnKD_weights fetch {checkpoint.name}"
            return Verdict(checkpoint.file, todo, problem)
        if not checkpoint.sha256:
            return Verdict(checkpoint.file, f"taken for {checkpoint.title}; no sha256 of it is published")
        return Verdict(checkpoint.file, f"{checkpoint.title}, whole and unchanged")

    def take_in(self, file: Path, name: str | None = None, replace: bool = False) -> Checkpoint:
        """Recognise a checkpoint by its sha256, or else by its name, check it and copy it into the store.

        Args:
            file: Where it is now; it stays there.
            name: What the user says it is; needed only for checkpoints without a known sha256 under other names.
            replace: Whether another file of that name in the store may be replaced.

        Raises:
            UnknownNameError: If there is no checkpoint of that name.
            ReplacingError: If another file of that name is in the store.
            WeightsError: If it is missing, no known checkpoint, or not the one it is said to be.
        """
        if not file.is_file():
            raise WeightsError(f"There is no file '{file.name}' to import. Give the path of a downloaded checkpoint.")
        wanted = find(name) if name else None
        digest = sha256(file)
        recognised = of_sha256(digest)
        if recognised and wanted and recognised != wanted:
            raise WeightsError(
                f"'{file.name}' is {recognised.title}, not {wanted.title}. Leave --as out, or give the right file."
            )
        checkpoint = recognised or wanted or next((c for c in known() if c.file == file.name), None)
        if checkpoint is None:
            raise WeightsError(
                f"'{file.name}' (sha256 {digest[:12]}...) is no checkpoint that nnkd knows (nnKD_weights list). "
                f"Weights of your own need no import: give their path with the teacher's option weights=FILE."
            )
        problem = difference(file, checkpoint, digest)
        if problem:
            raise WeightsError(f"'{file.name}' is not {checkpoint.title}: {problem}. Download it again.")
        target = self.file(checkpoint)
        if not (target.is_file() and target.samefile(file)):
            if target.is_file() and not replace and sha256(target) != digest:
                raise ReplacingError(
                    f"'{target.name}' is in the store already with another content. Keep it, or replace it with "
                    f"--replace."
                )
            with atomic(target) as temporary:
                shutil.copyfile(file, temporary)
                if sha256(temporary) != digest:
                    raise OSError("the copy differs from the file")
        return checkpoint

    def located(self, teacher: str, options: Mapping[str, str] | None = None) -> Path | None:
        """The checkpoint that a teacher uses with these options, if it is in the store and has the right size.

        Raises:
            WeightsError: If it is there but has another size.
        """
        checkpoint = of_teacher(teacher, options)
        if checkpoint is None or not self.file(checkpoint).is_file():
            return None
        size = self.file(checkpoint).stat().st_size
        if checkpoint.size not in (None, size):
            raise WeightsError(
                f"'{checkpoint.file}' among the stored weights has {size} bytes, but {checkpoint.size} are expected. "
                f"Remove it and run nnKD_weights fetch {checkpoint.name}."
            )
        return self.file(checkpoint)


def difference(file: Path, checkpoint: Checkpoint, digest: str = "") -> str:
    """What speaks against a file being a checkpoint, as half a sentence; empty if nothing does.

    Args:
        file: The file.
        checkpoint: What it should be.
        digest: The file's sha256, if it is known already.
    """
    size = file.stat().st_size
    if checkpoint.size not in (None, size):
        return f"it has {size} bytes, but {checkpoint.size} are expected"
    if checkpoint.sha256:
        digest = digest or sha256(file)
        if digest != checkpoint.sha256:
            other = of_sha256(digest)
            what = f"it is {other.title}" if other else f"its sha256 is {digest[:12]}..."
            return f"{what}, but {checkpoint.sha256[:12]}... is expected"
    return ""
