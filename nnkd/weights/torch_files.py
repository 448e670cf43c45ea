"""Files of torch.save: looked over before anything is made of them, then loaded with weights_only=True."""

from __future__ import annotations

import contextlib
import io
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from encodings.aliases import aliases
from pathlib import Path
from typing import IO, Any

from nnkd import limits
from nnkd.errors import WeightsError
from nnkd.weights.numpy_state import STAND_INS

# What the pickle of a checkpoint may name; torch itself would also make arrays of any size and tensors of other kinds.
NAMES = re.compile(
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.(set|complex)|_codecs\.encode|"
    r"torch\.(Size|device|\w+Storage|storage\.(Untyped|Typed)Storage|nn\.parameter\.Parameter)|"
    r"torch\.(u?int\d+|b?float\d+|float8_\w+|complex\d+|bool)|"
    r"torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)|" + "|".join(map(re.escape, STAND_INS))
)
# Encodings that make bytes of bytes, or take ages; numpy's bytes are latin1.
BINARY = {f"{name}_codec" for name in ("hex", "base64", "bz2", "quopri", "uu", "zlib")} | {"idna", "punycode"}
CODECS = {word.replace("_", "") for word in (*BINARY, *(alias for alias, name in aliases.items() if name in BINARY))}
NO_LETTERS = re.compile(r"[^a-z0-9]")  # what Python passes over in the name of an encoding
LEGACY_PICKLES = 5  # a file of torch before 1.6: magic number, version, system, content, names of storages
SLACK = 1 << 28  # bytes that a tensor may have beyond its file: those of repeated values are not stored


class NotLoadedError(Exception):
    """Why a file is not loaded, as half a sentence.

    Attributes:
        named: What its pickle names beside weights; empty: it is broken, or over a limit.
    """

    def __init__(self, why: str, named: str = ""):
        super().__init__(why)
        self.named = named


def load(file: str | Path | IO[bytes], map_location: Any = "cpu", by: Callable[..., Any] | None = None) -> Any:
    """Load a file of torch.save: tensors, and what may stand beside them.

    Args:
        file: A zip as torch writes it, or a file of torch before 1.6; or such a file, opened.
        map_location: Where tensors go, as torch.load takes it.
        by: torch's own load; None: what torch.load is now.

    Raises:
        NotLoadedError: If it is truncated or no file of torch, names more than weights, or is over a limit.
    """
    import torch

    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of pickles of another protocol, which nobody can change
            stream = stack.enter_context(open(file, "rb")) if isinstance(file, str | Path) else file
            start = stream.tell()
            _look(stream)
            size = stream.seek(0, io.SEEK_END)
            stream.seek(start)
            stack.enter_context(torch.serialization.safe_globals([(f, n) for n, f in STAND_INS.items()]))
            content = (by or torch.load)(stream, map_location=map_location, weights_only=True)
        _check_tensors(content, size)
    except NotLoadedError:
        raise
    except (Exception, RecursionError) as error:  # whatever a reader of foreign bytes trips over
        raise NotLoadedError("it is truncated or no checkpoint") from error
    return content


def sentence(error: NotLoadedError, what: str) -> WeightsError:
    """The error for the user, `what` being the file's name and place."""
    if error.named:
        return WeightsError(
            f"{what} holds more than weights ({error.named[:80]}) and is not loaded. Ask its author for a checkpoint "
            f"of tensors alone, as nnU-Net writes it."
        )
    return WeightsError(f"{what} cannot be loaded as weights: {error}. Copy it again.")


def _look(stream: IO[bytes]) -> None:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if stream.read(4) != b"PK\3\4":  # as torch tells them apart
        stream.seek(0)
        start = io.BytesIO(stream.read(int(limits.PICKLE.value * limits.MIB)))
        for _ in range(LEGACY_PICKLES):
            _look_over(start)
        return
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise NotLoadedError("its parts are compressed or encrypted, which torch never does")
        if sum(member.file_size for member in members) > size:
            raise NotLoadedError("its parts are larger than the file")
        for member in members:
            if member.filename.endswith(".pkl"):
                if member.file_size > limits.PICKLE.value * limits.MIB:
                    raise NotLoadedError(
                        f"it holds {member.file_size / limits.MIB:.0f} MiB beside tensors, and {_most()}"
                    )
                _look_over(io.BytesIO(archive.read(member)))


def _most() -> str:
    return f"{limits.PICKLE.value:g} are allowed (the variable {limits.PICKLE.variable} allows more)"


def _look_over(stream: IO[bytes]) -> None:
    """Go through one pickle without making anything of it."""
    longest, calls = 0, 0
    strange = ""
    for code, argument, _ in pickletools.genops(stream):
        if code.name in ("GLOBAL", "INST"):
            name = str(argument).replace(" ", ".")
            if not NAMES.fullmatch(name):
                raise NotLoadedError("", name)
        elif code.name in ("REDUCE", "NEWOBJ"):
            calls += 1
        elif isinstance(argument, str | bytes):
            longest = max(longest, len(argument))
            if isinstance(argument, str) and (codec := NO_LETTERS.sub("", argument.lower())) in CODECS:
                strange = codec
    if strange and calls:
        raise NotLoadedError("", f"bytes as {strange}")
    if calls * longest > limits.ALWAYS:
        raise NotLoadedError(f"it makes more than {limits.ALWAYS / limits.GIB:g} GiB of what stands beside tensors")


def _check_tensors(content: Any, size: int) -> None:
    """Refuse tensors that are larger than the file, and drop what a pickle may have hung on dictionaries."""
    import torch

    parts, seen = [content], set()
    while parts:
        part = parts.pop()
        if isinstance(part, torch.Tensor):
            if part.numel() * part.element_size() > size + SLACK:
                raise NotLoadedError("it holds a tensor that is larger than the file")
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            parts += part.values() if isinstance(part, dict) else part
            if isinstance(part, OrderedDict) and not _is_plain(vars(part)):
                vars(part).clear()


def _is_plain(attributes: dict[str, Any]) -> bool:
    """Whether these are torch's notes on the versions of modules."""
    notes = attributes.get("_metadata", {})
    return (
        attributes.keys() <= {"_metadata"}
        and isinstance(notes, dict)
        and all(isinstance(name, str) and isinstance(note, dict) for name, note in notes.items())
    )
