"""A plugin for nnkd: a student with a network and a loss of its own."""

from nnkd import Entry, hookimpl


@hookimpl
def nnkd_register_students():
    """The class stands in a module of its own, so that listings need not import torch."""
    return [
        Entry(
            name="nnUNetTrainerDilated",
            load="nnkd_dilated.trainer:nnUNetTrainerDilated",
            summary="a few dilated convolutions at full resolution, for small structures",
            source="Yu and Koltun, ICLR 2016",
            licence="Apache-2.0",
        )
    ]
