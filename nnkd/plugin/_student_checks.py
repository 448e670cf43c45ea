"""What is wrong with a student's class, for `nnkd.plugin.validation`: half a sentence, or nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any

from nnkd.plugin._toys import LABELS, toy_plans
from nnkd.plugin.networks import PaperGraph
from nnkd.plugin.options import parse_options
from nnkd.plugin.students import OwnData, Student

ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "options_class": (type,),
    "usual_aggregator": (str, NoneType),
    "one_gpu": (bool,),
    "no_network": (str,),
    "paper_graphs": (tuple, list),
    "takes_auxiliaries": (bool,),
    "takes_foreign_weights": (bool,),
    "box_teacher": (str,),
}
METHODS = ("plan_values", "check_options", "check_recipe", "foreign_weights")
OF_OWN_DATA = ("write_plans", "cases_of", "lineage", "told_of_truth", "check_datasets")


def members_problem(student: type[Student]) -> str:
    """Of its attributes' types, and of its methods' arguments."""
    return next(_members_problems(student), "")


def _members_problems(student: type[Student]) -> Iterator[str]:
    members = dict(inspect.getmembers(student))
    for name, kinds in ATTRIBUTES.items():
        if not isinstance(members[name], kinds):
            expected = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
            yield f"{name} is {members[name]!r}, but {expected} is expected"
    for graph in student.paper_graphs:
        if not isinstance(graph, PaperGraph):
            yield f"paper_graphs holds {graph!r}, but nnkd.plugin.networks.PaperGraph objects are expected"
    if student.takes_foreign_weights and student.foreign_weights is Student.foreign_weights:
        yield "takes_foreign_weights is True, but it has no foreign_weights of its own"
    interface, names = (OwnData, METHODS + OF_OWN_DATA) if issubclass(student, OwnData) else (Student, METHODS)
    expected_members = dict(inspect.getmembers(interface))
    for name in names:
        arguments = list(inspect.signature(expected_members[name]).parameters)
        try:
            inspect.signature(members[name]).bind(*arguments)
        except TypeError as error:
            yield f"{name}({', '.join(arguments)}) cannot be called on the class: {error}"


def options_problem(student: type[Student]) -> str:
    """Of what it makes of its default options, and of the options of its papers' graphs."""
    options = student.options_class
    defaults = parse_options(options, {}, student.__name__)
    if student.takes_auxiliaries and "max_aux_cases" not in defaults:
        return "takes_auxiliaries is True, but options_class has no max_aux_cases (TrainingOptions has)"
    values = student.plan_values(defaults)
    if not isinstance(values, Mapping):
        return f"plan_values returned {type(values).__name__}, but a mapping is expected"
    for graph in student.paper_graphs:
        parse_options(options, graph.options, student.__name__)
    return ""


def network_problem(student: Any, dimensions: int) -> str:
    """Of its network's answer to a toy image, as nnU-Net builds it for prediction.

    Args:
        student: A student that is a trainer of nnU-Net's.
        dimensions: 2 or 3.
    """
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(toy_plans(dimensions))
    configuration = plans.get_configuration("2d" if dimensions == 2 else "3d_fullres")
    outputs = len(LABELS) + 1
    build = student.build_network_architecture
    network = build(plans, configuration, 1, outputs, enable_deep_supervision=False).eval()
    with torch.inference_mode():
        answer = network(torch.linspace(-1, 1, 64).expand(1, 1, *configuration.patch_size))
    expected = (1, outputs, *configuration.patch_size)
    if not isinstance(answer, torch.Tensor) or answer.shape != expected:
        came = f"shape {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
        return f"answered an image of shape {(1, 1, *expected[2:])} with {came}, but {expected} is expected"
    return "" if answer.isfinite().all() else "answered with values that are not finite"
