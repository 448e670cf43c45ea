"""nnKD_train: as nnUNetv2_train; recipe flags write the recipe first."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nnkd.cli import command
from nnkd.types import Kind, StepReport

if TYPE_CHECKING:
    from nnkd.plugin.registry import Registry
    from nnkd.training.recipe_flags import Chosen

USUAL: dict[Kind, str | None] = {"aggregator": "staple", "sampler": "uniform", "auxiliary_scheduler": None}


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(
        "Train a student, as nnUNetv2_train does. Recipe flags (-t -a -s -as --set -n) write a recipe, which is a "
        "plans file, and print the -p to use from then on; without them a student learns from all teachers, by its "
        "usual aggregator.",
        "nnKD_train 701 2d 0 -tr nnUNetTrainerUNet -a majority --set majority.ties=yes --set epochs=200",
    )
    add = parser.add_argument
    add("dataset_name_or_id", help="dataset name or id")
    add("configuration", help="2d, 3d_fullres, 3d_lowres or 3d_cascade_fullres")
    add("fold", help="fold of splits_final.json, or 'all'")
    add("-tr", default="nnUNetTrainerKD", help="student, or any nnU-Net trainer (default: nnUNetTrainerKD)")
    add("-p", default="nnUNetPlans", help="plans, or a recipe made before (default: nnUNetPlans)")
    add("-pretrained_weights", default=None, help="nnU-Net checkpoint to start from")
    add("-num_gpus", type=int, default=1, help="number of GPUs")
    add("--npz", action="store_true", help="save softmax outputs of the final validation")
    add("--c", action="store_true", help="continue from the latest checkpoint")
    add("--val", action="store_true", help="only run the validation")
    add("--val_best", action="store_true", help="validate checkpoint_best instead of checkpoint_final")
    add("--disable_checkpointing", action="store_true", help="write no checkpoints")
    command.add_allow_architecture(parser)
    command.add_device(parser)
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("-t", nargs="*", default=None, help="teachers to learn from (default: all); 'none': labelsTr")
    recipe.add_argument(
        "-a", default=None, help="aggregator (default: the student's own, or staple; with one or two teachers mean)"
    )
    recipe.add_argument("-s", default=None, help="sampler (default: uniform)")
    recipe.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options: of the training (epochs=200, lr=1e-4, iou=jml ...), of the plans (batch_size=24, "
        "patch_size=96,96), of an aggregator or sampler (majority.ties=yes)",
    )
    recipe.add_argument(
        "--datasets",
        nargs="+",
        default=[],
        metavar="DATASET",
        help="train on these datasets together (students that can); results go under the first argument's",
    )
    recipe.add_argument(
        "-as",
        dest="scheduler",
        default=None,
        metavar="NAME",
        help="auxiliary scheduler: which of --auxiliaries trains along in a turn (ucb, dal, gms, mtl, random, none)",
    )
    recipe.add_argument(
        "--auxiliaries",
        nargs="+",
        default=[],
        metavar="DATASET",
        help="datasets that may train along: ID (all labels are foreground), ID:LABEL, or ID:* for each label that 30 "
        "cases have",
    )
    recipe.add_argument("-n", default=None, help="name of the recipe (default: a readable one with 6 digits)")
    recipe.add_argument(
        "--per_label",
        nargs="*",
        default=None,
        metavar="LABEL",
        help="one binary student a label (paper 1's way), or for these labels alone",
    )
    recipe.add_argument("--dry_run", action="store_true", help="write the recipe and print its name, do not train")
    return parser


def _run(arguments: argparse.Namespace) -> StepReport:
    from nnkd import paths
    from nnkd.plugin import registry
    from nnkd.plugin.options import sort_settings

    plugins = registry.installed()
    named: dict[Kind, str] = {
        "aggregator": arguments.a,
        "sampler": arguments.s,
        "auxiliary_scheduler": arguments.scheduler,
    }
    named = {kind: name for kind, name in named.items() if name is not None}
    for kind, name in named.items():
        plugins.find(kind, name)
    owners = {**USUAL, **named}
    own, taken = sort_settings(arguments.set, owners, plugins.load)

    from nnkd.steps.train import train
    from nnkd.training.recipe_flags import RecipeFlags, Request

    chosen = {
        kind: _chosen(plugins, kind, name, taken[kind], arguments.auxiliaries)
        for kind, name in owners.items()
        if name is not None and (kind in named or taken[kind])
    }
    flags = RecipeFlags(
        teachers=arguments.t,
        options=own,
        name=arguments.n,
        datasets=arguments.datasets,
        auxiliaries=arguments.auxiliaries,
        **chosen,
    )
    for dataset in (arguments.dataset_name_or_id, *arguments.datasets):
        paths.dataset_name(dataset)  # before torch is imported
    known = arguments.tr in plugins.names("student")
    return train(
        Request(
            dataset=arguments.dataset_name_or_id,
            configuration=arguments.configuration,
            fold=arguments.fold,
            trainer_name=arguments.tr,
            trainer=plugins.load("student", arguments.tr) if known else _nnunet_trainer(arguments.tr, plugins),
            plans=arguments.p,
            flags=flags,
            pretrained_weights=arguments.pretrained_weights,
            num_gpus=arguments.num_gpus,
            save_probabilities=arguments.npz,
            continue_training=arguments.c,
            only_validate=arguments.val,
            validate_best=arguments.val_best,
            disable_checkpointing=arguments.disable_checkpointing,
            device=arguments.device,
            dry_run=arguments.dry_run,
            per_label=arguments.per_label,
        )
    )


def _chosen(plugins: Registry, kind: Kind, name: str, options: Mapping[str, str], auxiliaries: Sequence[str]) -> Chosen:
    """What a flag names, made with the options given for it; an auxiliary scheduler stays a class."""
    from nnkd.data.recipes import Choice
    from nnkd.plugin.options import parse_options
    from nnkd.training.recipe_flags import Chosen

    plugin = plugins.load(kind, name)
    checked = parse_options(plugin, options, name)
    choice = Choice(name, {option: checked[option] for option in options})
    if kind != "auxiliary_scheduler":
        return Chosen(choice, plugin(**checked))
    if auxiliaries:
        plugin(auxiliaries, **checked)  # refuses values that it cannot choose with
    return Chosen(choice, plugin)


def _nnunet_trainer(name: str, plugins: Registry) -> type:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        return recursive_find_trainer_class_by_name(name)
    except RuntimeError:
        plugins.find("student", name)  # raises, naming the students there are
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, return the exit code."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        os.environ.setdefault(name, "1")  # as nnUNetv2_train: loader workers must not fight over the cores
    arguments = _parser().parse_args(argv)
    if arguments.c or arguments.val:
        return command.run(_run, arguments)
    return command.run(_run, arguments, "add --c and it continues from the latest checkpoint; without, it starts anew")
