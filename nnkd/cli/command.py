"""What every command shares: exit codes, one sentence per error, and nnU-Net's argument letters."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nnkd import __version__
from nnkd.errors import NnkdError, in_one_line
from nnkd.processes import ended_by_interrupt, keep_current_folder_out
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.data.dicom_cases import DicomRequest

DONE, ERROR, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = (
    "exit codes: 0 done; 1 an error, in one sentence; 2 usage; 3 some cases failed, or files were not understood; "
    "130 interrupted"
)
ENDING_S = 8.0  # from Ctrl-C to the end; an external teacher's program has 5 of them
MOST_SHOWN = 20  # files that were not understood


def parser(description: str, example: str = "") -> argparse.ArgumentParser:
    """An argument parser in the house's manner.

    Args:
        description: What the command reads and writes.
        example: A whole command line.
    """
    epilog = f"example: {example}\n{EXIT_CODES}" if example else EXIT_CODES
    made = argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--version", action="version", version=f"nnkd {__version__}")
    return made


def run(
    action: Callable[[argparse.Namespace], StepReport | int | None],
    arguments: argparse.Namespace,
    interrupted: str = "run the same command again and it continues where it stopped",
) -> int:
    """Run a command and turn what happens into an exit code.

    Args:
        action: Does the work. A StepReport is printed; with failures the exit code is 3.
        arguments: The parsed command line.
        interrupted: What to do after Ctrl-C.

    Returns:
        The exit code. With NNKD_DEBUG=1 errors are raised with their traceback instead. What is no `NnkdError` is told
        by `unexpected`.
    """
    keep_current_folder_out()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)  # other libraries chat at INFO
    logging.getLogger("nnkd").setLevel(logging.INFO)
    try:
        if getattr(arguments, "allow_architecture", ()):
            from nnkd.weights import architectures

            architectures.allow(arguments.allow_architecture)
        with ended_by_interrupt(ENDING_S, INTERRUPTED, f"interrupted; {interrupted}"):
            outcome = action(arguments)
    except NnkdError as error:
        if os.environ.get("NNKD_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if os.environ.get("NNKD_DEBUG"):
            raise
        print(f"error: {unexpected(error)}", file=sys.stderr)
        return ERROR
    if isinstance(outcome, StepReport):
        return show(outcome)
    return outcome or DONE


def unexpected(error: Exception) -> str:
    """What to tell of an error that is none of nnkd's own, in one sentence; a programming error shows its traceback."""
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is a RuntimeError
        return (
            f"There is not enough memory ({in_one_line(error)}). Use fewer processes or smaller batches, or split or "
            f"crop the image."
        )
    if isinstance(error, RecursionError):
        return "A file is nested too deeply to be read. Write it with fewer levels."
    if isinstance(error, UnicodeError):
        return f"A file or a name is no UTF-8 text ({in_one_line(error)}). Save the file as UTF-8, or rename it."
    import traceback

    traceback.print_exception(error)
    return (
        f"This is a fault of nnkd ({type(error).__name__}: {in_one_line(error)}). Please report it with the lines "
        f"above, the command and the output of nnKD_plugins --version."
    )


def _of_the_system(error: OSError) -> str:
    """An OSError in one sentence, without the folders that lead to the file."""
    names = [os.path.basename(os.path.abspath(os.fsdecode(n))) for n in (error.filename, error.filename2) if n]
    what = f"'{names[0][:100]}'" if names else "A file"
    said = (error.strerror or in_one_line(error)).rstrip(".")
    sentences = {
        errno.ENOENT: f"{what} is missing. Correct the name, or make it.",
        errno.ENOTDIR: f"{what} is to lie in a file, where a folder is expected. Give a folder.",
        errno.EISDIR: f"{what} is a folder, where a file is expected. Give a file.",
        errno.EEXIST: f"{what} is a file already, where a folder is to be made. Choose another name, or move it.",
        errno.ENOSPC: f"{what} could not be written: the disk is full. Make room and run the command again.",
        errno.EDQUOT: f"{what} could not be written: your quota is used up. Make room and run the command again.",
        errno.ENAMETOOLONG: f"{what} is too long a name for the file system. Give a shorter one.",
    }
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"{what} may not be read or written ({said}). Change the permissions, or choose another folder."
    return sentences.get(error.errno or 0, f"{what} cannot be read or written ({said}). Check the disk and the path.")


def show(report: StepReport) -> int:
    """Print a step's report, last which files of each folder were taken; returns its exit code."""
    for line in report.lines:
        print(line)
    if report.failures:
        print(f"{len(report.failures)} case(s) failed:", file=sys.stderr)
        for failure in report.failures:
            print(f"  {failure.case}: {failure.reason}", file=sys.stderr)
    told = {failure.case for failure in report.failures}
    unknown = [
        f"{name} in {count.folder}: {why}"
        for count in report.folders
        for name, why in sorted(count.unknown.items())
        if name not in told
    ]
    if unknown:
        print(f"{len(unknown)} file(s) were not understood:", file=sys.stderr)
        for line in unknown[:MOST_SHOWN]:
            print(f"  {line}", file=sys.stderr)
        if len(unknown) > MOST_SHOWN:
            print(f"  and {len(unknown) - MOST_SHOWN} more", file=sys.stderr)
    sys.stderr.flush()
    for count in report.folders:
        print(count.line)
    return SOME_FAILED if report.failures or any(count.unknown for count in report.folders) else DONE


def add_replace(to: argparse.ArgumentParser) -> None:
    """--replace."""
    to.add_argument(
        "--replace",
        action="store_true",
        help="also replace files that nnkd did not write or that were changed since; never images and manual label "
        "maps of a dataset (default: refuse)",
    )


def add_device(to: argparse.ArgumentParser) -> None:
    """-device, as in nnU-Net."""
    to.add_argument(
        "-device",
        default="cuda",
        choices=("cuda", "cpu", "mps"),
        help="where to compute (default: cuda). Choose the GPU with CUDA_VISIBLE_DEVICES",
    )


def add_allow_architecture(to: argparse.ArgumentParser) -> None:
    """--allow_architecture, which `run` heeds."""
    to.add_argument(
        "--allow_architecture",
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="packages whose networks plans.json may name, beside nnU-Net's and the plugins'; they run on your machine",
    )


def add_dicom(to: argparse.ArgumentParser) -> None:
    """What is wanted of a DICOM folder or zip."""
    group = to.add_argument_group("DICOM", "each series is a case with a number; a DICOM-SEG names its patient")
    group.add_argument("--format", nargs="+", choices=("nifti", "dicomseg"), default=["nifti"], metavar="FORMAT",
                       help="what to write: nifti, dicomseg (on the series' own frames, needs nnkd[dicom]), or both "
                       "(default: nifti)")  # fmt: skip
    group.add_argument("--series", nargs="+", default=[], metavar="PATTERN", help="which series: UID, number or "
                       "description (* and ?); default: all that are images of the model's modality")  # fmt: skip
    group.add_argument("--dicom_modality", default="", metavar="CODE", help="only series of this modality, such as MR")
    group.add_argument("--segment_codes", metavar="FILE", help="a table of your own: label, category, type, with codes "
                       "as 'SCT 64033007 Kidney' (default: nnkd's)")  # fmt: skip


def dicom_of(arguments: argparse.Namespace) -> DicomRequest:
    """What `add_dicom` was answered."""
    from pathlib import Path

    from nnkd.data.dicom_cases import DicomRequest

    return DicomRequest(
        series=tuple(arguments.series),
        modality=arguments.dicom_modality,
        formats=tuple(dict.fromkeys(arguments.format)),
        codes=Path(arguments.segment_codes) if arguments.segment_codes else None,
    )


def add_parts(to: argparse.ArgumentParser) -> None:
    """-num_parts and -part_id, as in nnU-Net."""
    to.add_argument("-num_parts", type=int, default=1, help="number of calls that share the work (default: 1)")
    to.add_argument("-part_id", type=int, default=0, help="which of them this is, from 0 (default: 0)")


def part_of(cases: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """The cases this call is to do.

    Raises:
        NnkdError: If -part_id is not below -num_parts.
    """
    if not 0 <= arguments.part_id < arguments.num_parts:
        raise NnkdError(
            f"-part_id is {arguments.part_id}, but with -num_parts {arguments.num_parts} it runs from 0 to "
            f"{arguments.num_parts - 1}."
        )
    return list(cases[arguments.part_id :: arguments.num_parts])
