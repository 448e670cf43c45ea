"""nnKD_trainer_path: prints what nnUNet_extTrainer should be."""

from __future__ import annotations

from collections.abc import Sequence

from nnkd import paths
from nnkd.cli import command


def main(argv: Sequence[str] | None = None) -> int:
    """Print the path and return the exit code."""
    parser = command.parser(
        "Print what nnUNet_extTrainer should be, so that stock nnUNetv2_train and nnUNetv2_predict find nnkd's "
        "students. An existing value is kept.",
        'export nnUNet_extTrainer="$(nnKD_trainer_path)"',
    )
    return command.run(lambda _: print(paths.trainer_path()), parser.parse_args(argv))
