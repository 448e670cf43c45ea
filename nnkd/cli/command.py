"""What every command shares: exit codes, one sentence per error, and nnU-Net's argument letters."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nnkd import __version__
from nnkd.errors import NnkdError
from nnkd.processes import keep_current_folder_out
from nnkd.types import StepReport

if TYPE_CHECKING:
    from nnkd.data.dicom_cases import DicomRequest

DONE, ERROR, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = "exit codes: 0 done; 1 an error, in one sentence; 2 usage; 3 some cases failed; 130 interrupted"


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
        The exit code. With NNKD_DEBUG=1 errors are raised with their traceback instead.
    """
    keep_current_folder_out()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)  # other libraries chat at INFO
    logging.getLogger("nnkd").setLevel(logging.INFO)
    try:
        if getattr(arguments, "allow_architecture", ()):
            from nnkd.weights import architectures

            architectures.allow(arguments.allow_architecture)
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
    if isinstance(outcome, StepReport):
        return show(outcome)
    return outcome or DONE


def show(report: StepReport) -> int:
    """Print a step's report; returns its exit code."""
    for line in report.lines:
        print(line)
    if report.failures:
        print(f"{len(report.failures)} case(s) failed:", file=sys.stderr)
        for failure in report.failures:
            print(f"  {failure.case}: {failure.reason}", file=sys.stderr)
        return SOME_FAILED
    return DONE


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
