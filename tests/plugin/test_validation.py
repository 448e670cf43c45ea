"""Tests of nnkd.plugin.validation: what is wrong with a plugin's class is found and said."""

from __future__ import annotations

import numpy as np
import pytest

from nnkd import (
    Aggregator,
    AuxiliaryScheduler,
    BoxTeacher,
    Entry,
    JointAggregator,
    NnkdError,
    Sampler,
    Teacher,
)
from nnkd.plugin.validation import Candidate, check
from nnkd.steps.validate_plugin import validate_plugin
from nnkd.types import Kind


def outcomes(kind: Kind, target: type, **entry: str) -> dict[str, tuple[str, str]]:
    """Outcome and detail by what was checked."""
    made = Entry(
        target.__name__, f"{__name__}:{target.__name__}", "a summary", licence=entry.pop("licence", "MIT"), **entry
    )
    return {c.what: (c.outcome, c.detail) for c in check(Candidate(kind, made, target))}


def failures(kind: Kind, target: type, **entry: str) -> dict[str, str]:
    """Details of what failed."""
    return {what: detail for what, (outcome, detail) in outcomes(kind, target, **entry).items() if outcome == "failed"}


class Everything(Teacher):
    """Answers for the first label with all voxels."""

    answer = staticmethod(lambda volume: {"liver": np.ones(volume.shape, dtype=bool)})

    def predict(self, volume, prompts):
        """The class's answer."""
        return self.answer(volume)


def teacher(answer) -> type:
    """A teacher with another answer."""
    return type("Other", (Everything,), {"answer": staticmethod(answer)})


def test_a_good_teacher_passes():
    assert failures("teacher", Everything) == {}
    assert {"construction", "3D volume", "2D image", "weights"} <= set(outcomes("teacher", Everything))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda v: None, "returned NoneType, but a mapping"),
        (lambda v: {"kidney": np.ones(v.shape, bool)}, "answered for 'kidney', but was asked for liver, spleen"),
        (
            lambda v: {"liver": np.ones(v.data.shape, bool)},
            r"shape \(1, 8, 32, 28\), but an array of shape \(8, 32, 28\)",
        ),
        (lambda v: {"liver": [1]}, "'liver' came as list"),
        (lambda v: {"liver": np.ones(v.shape, np.uint8)}, "came as uint8"),
        (lambda v: {"liver": np.full(v.shape, 1.5)}, r"values from 1\.5 to 1\.5"),
        (lambda v: {"liver": np.full(v.shape, np.nan)}, "values from nan"),
        (lambda v: v.data.fill(0) or {}, r"changed volume\.data"),
        (lambda v: {"liver": v.data[7] > 0}, "IndexError"),
    ],
    ids=["none", "label", "shape", "type", "dtype", "range", "nan", "in place", "raises"],
)
def test_a_wrong_answer_of_a_teacher_is_found(answer, reason):
    found = failures("teacher", teacher(answer))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found["3D volume"])


def test_a_teacher_without_its_weights_is_not_tried():
    class Absent(Everything):
        def __init__(self, context):
            raise FileNotFoundError("no weights here")

    class Refuses(Everything):
        def predict(self, volume, prompts):
            if volume.is_2d:
                raise NnkdError("2D is not for me")
            return {}

    assert outcomes("teacher", Absent)["construction"] == ("not tried", "FileNotFoundError: no weights here")
    assert "3D volume" not in outcomes("teacher", Absent)
    assert outcomes("teacher", Refuses)["2D image"] == ("not tried", "2D is not for me")
    assert outcomes("teacher", Refuses)["3D volume"][0] == "ok"


def test_a_teacher_that_breaks_in_its_constructor_failed():
    class Breaks(Everything):
        def __init__(self, context):
            context.nothing()

    assert "AttributeError" in failures("teacher", Breaks)["construction"]


def test_weights_need_a_licence_and_a_hash():
    class Weighty(Everything):
        files = ({"name": "a.pth", "sha256": "0", "licence": "MIT"},)

        def weights(self):
            return self.files

    class Careless(Weighty):
        files = ({"name": "a.pth"},)

    assert "no weights_licence" in failures("teacher", Weighty)["weights"]
    assert failures("teacher", Weighty, weights_licence="MIT") == {}
    assert "lacks licence, sha256" in failures("teacher", Careless, weights_licence="MIT")["weights"]


def test_options_that_only_cost_exist():
    class Cached(Everything):
        costs_only = frozenset({"cache"})

        def __init__(self, context, *, cache: int = 0):
            super().__init__(context)

    class Misspelt(Cached):
        costs_only = frozenset({"cash"})

    class Text(Cached):
        costs_only = "cache"

    assert failures("teacher", Cached) == {}
    assert failures("teacher", Misspelt) == {"costs_only": "names cash, which Misspelt has no option of"}
    assert "a frozenset of names" in failures("teacher", Text)["costs_only"]


def test_options_that_cannot_be_set_are_found():
    class Wrong(Everything):
        def __init__(self, context, *, number: int = "three"):
            super().__init__(context)

    class Required(Everything):
        def __init__(self, context, *, number: int):
            super().__init__(context)

    class Taken(Everything):
        def __init__(self, context, *, channel: int = 0):
            super().__init__(context)

    assert "nnkd's own option" in failures("teacher", Taken)["options"]
    assert "number" in failures("teacher", Wrong)["options"]
    assert "number has no default" in failures("teacher", Required)["options"]


def test_a_prompt_must_be_one_of_three():
    assert "'click'" in failures("teacher", type("Other", (Everything,), {"prompt": "click"}))["prompt"]


def test_channels_must_be_one_of_three():
    assert "'some'" in failures("teacher", type("Other", (Everything,), {"channels": "some"}))["channels"]
    for channels in ("one", "all", "colour"):
        assert failures("teacher", type("Other", (Everything,), {"channels": channels})) == {}


def test_notes_must_fit_into_a_manifest():
    class Chatty(Everything):
        def notes(self):
            return {"mask": np.ones(3)}

    assert "not JSON serializable" in failures("teacher", Chatty)["notes"]


class Boxed(BoxTeacher):
    """Answers with the boxes themselves."""

    embed = staticmethod(lambda image: image.transpose(2, 0, 1).astype(np.float32))
    scale = 1.0

    def predict(self, volume, prompts):
        """Every box in its slice."""
        masks = {label: np.zeros(volume.shape, dtype=bool) for label in prompts}
        for label, prompt in prompts.items():
            for z, *box in prompt.boxes:
                masks[label][z] |= self.decode(None, np.array([box]), volume.shape[1:])[0] > 0.5
        return masks

    def encode(self, image):
        """The class's embedding."""
        return self.embed(image)

    def decode(self, embedding, boxes, shape):
        """1 inside, 0 outside."""
        out = np.zeros((len(boxes), *shape), dtype=np.float32)
        for mask, (y0, x0, y1, x1) in zip(out, boxes, strict=True):
            mask[y0:y1, x0:x1] = self.scale
        return out


def test_box_teachers_encode_and_decode():
    assert failures("teacher", Boxed) == {}
    assert outcomes("teacher", Boxed)["encode, decode"][0] == "ok"
    other = type("Other", (Boxed,), {"embed": staticmethod(lambda image: image)})
    assert "encode returned uint8 (32, 28, 3)" in failures("teacher", other)["encode, decode"]
    other = type("Other", (Boxed,), {"scale": 3.0})
    assert "decode returned values from 0 to 3" in failures("teacher", other)["encode, decode"]


def test_licence_and_name_are_checked():
    assert "licence" in failures("teacher", Everything, licence="")
    candidate = Candidate("teacher", Entry("a", "b:C", "", licence="MIT"), None, "is no class", "other (other-plugin)")
    found = {c.what: c.detail for c in check(candidate) if c.outcome == "failed"}
    assert set(found) == {"name", "summary", "interface"}
    assert "other (other-plugin)" in found["name"]


class Share(Aggregator):
    """The share of yes votes."""

    rule = staticmethod(lambda table: table)

    def table(self, counts, answers):
        """Any rule."""
        yes = np.array([pattern.bit_count() for pattern in range(counts.shape[1])])
        return self.rule((yes / np.maximum(answers.sum(axis=0), 1)[:, None]).clip(0, 1).astype(np.float32))


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda t: t[:1], "shape"),
        (lambda t: t.tolist(), "list"),
        (lambda t: (t > 0.5).astype(int), "int64"),
        (lambda t: t * 2, "values from 0 to 2"),
        (lambda t: t / 0 * 0, "nan"),
    ],
    ids=["shape", "type", "dtype", "range", "nan"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_wrong_table_is_found(rule, reason):
    found = failures("aggregator", type("Other", (Share,), {"rule": staticmethod(rule)}))
    assert reason in found["abstentions"]


def test_a_good_aggregator_passes():
    assert failures("aggregator", Share) == {}


def sharing(**methods) -> type:
    """Share with some methods of another kind."""
    return type("Other", (Share,), methods)


@pytest.mark.parametrize(
    ("aggregator", "reason"),
    [
        (sharing(estimates=lambda self, counts, answers: [1]), "estimates returned list, but a mapping"),
        (
            sharing(estimates=lambda self, counts, answers: {"quality": answers[0] * 1.0}),
            r"'quality' as float64 \(2,\), but numbers of shape \(1, 2\)",
        ),
        (sharing(estimates=lambda self, counts, answers: counts.fill(0) or {}), "changed its counts"),
        (sharing(for_teachers=lambda self, teachers, labels: None), "for_teachers returned NoneType"),
    ],
    ids=["type", "shape", "in place", "no rule"],
)
def test_wrong_estimates_and_rules_for_teachers_are_found(aggregator, reason):
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(failures("aggregator", aggregator)["one teacher"])


class JointPlurality(JointAggregator):
    """The share of each label."""

    factor = 1.0

    def joint_table(self, said, counts, answers):
        """The share of the teachers that say it."""
        labels = np.arange(1, answers.shape[1] + 1)
        return self.factor * (said[..., None] == labels).mean(axis=1)


def test_a_joint_aggregator_is_called_with_ballots():
    assert failures("aggregator", JointPlurality) == {}
    too_much = failures("aggregator", type("TooMuch", (JointPlurality,), {"factor": 1.5}))
    assert "values from 0 to 1.5" in too_much["one teacher"]
    both = {"joint_table": lambda self, said, counts, answers: np.ones((len(said), 2))}
    assert "labels 2 in sum" in failures("aggregator", type("Both", (JointPlurality,), both))["one teacher"]
    spoils = {"joint_table": lambda self, said, counts, answers: said.fill(0) or np.zeros((len(said), 2))}
    assert "work on a copy" in failures("aggregator", type("Spoils", (JointPlurality,), spoils))["one teacher"]


class Shuffled(Sampler):
    """Every case once."""

    def batches(self, participants, batch_size, rng):
        """Whole batches only."""
        cases = rng.permutation(sorted(participants)).tolist()
        for start in range(0, len(cases) - batch_size + 1, batch_size):
            yield cases[start : start + batch_size]


class Unseeded(Sampler):
    """Draws from a generator of its own."""

    def batches(self, participants, batch_size, rng):
        """Other batches each time."""
        for _ in range(5):
            yield np.random.default_rng().choice(sorted(participants), batch_size).tolist()


class OneTooMany(Sampler):
    """Batches of the wrong size."""

    def batches(self, participants, batch_size, rng):
        """One batch."""
        yield sorted(participants)[: batch_size + 1]


def test_samplers():
    assert failures("sampler", Shuffled) == {}
    assert "equal seeds" in failures("sampler", Unseeded)["batches of 4"]
    assert "2 identifiers out of" in failures("sampler", OneTooMany)["batches of 2"]


class Least(AuxiliaryScheduler):
    """The dataset with the smallest sum of losses so far."""

    def __init__(self, datasets):
        super().__init__(datasets)
        self.sums = dict.fromkeys(self.datasets, 0.0)

    def select(self):
        """The least."""
        return min(self.sums, key=self.sums.get)

    def update(self, dataset, loss, gradient_cosine):
        """Add up."""
        self.sums[dataset] += loss

    def state_dict(self):
        """The sums."""
        return {"sums": self.sums}

    def load_state_dict(self, state):
        """The sums."""
        self.sums = dict(state["sums"])


class Forgetful(Least):
    """Does not resume."""

    def load_state_dict(self, state):
        """Nothing."""


def test_auxiliary_schedulers():
    assert failures("auxiliary_scheduler", Least) == {}
    assert "resumed from its state_dict" in failures("auxiliary_scheduler", Forgetful)["turns and state"]
    stuck = type("Other", (Least,), {"select": lambda self: "elsewhere"})
    unclear = type("Unclear", (Least,), {"trains_on": "some"})
    assert "trains_on = 'some'" in failures("auxiliary_scheduler", unclear)["turns and state"]
    idle = type("Idle", (Least,), {"trains_on": "none", "select": lambda self: 1 / 0})
    assert failures("auxiliary_scheduler", idle) == {}
    assert "'elsewhere'" in failures("auxiliary_scheduler", stuck)["turns and state"]


def test_students():
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Longer(nnUNetTrainer):
        def __init__(self, plans, configuration, fold, dataset_json, device=None, more=1):
            """One argument more."""

    assert failures("student", nnUNetTrainer) == {}
    assert "2D network" not in outcomes("student", nnUNetTrainer)  # one of nnU-Net's alone is asked for nothing
    assert set(failures("student", Longer)) == {"constructor", "pickle"}


def student(**members) -> type:
    """A student with these members."""
    from nnkd.training.trainer import nnUNetTrainerKD

    return type("Other", (nnUNetTrainerKD,), members)


def found_in(**members) -> dict[str, str]:
    """What fails of a student with these members, but for `pickle`: it stands in no module."""
    return {what: detail for what, detail in failures("student", student(**members)).items() if what != "pickle"}


def test_a_good_student_passes():
    from nnkd.training.trainer import nnUNetTrainerKD

    found = outcomes("student", nnUNetTrainerKD)
    assert {outcome for outcome, _ in found.values()} == {"ok"}
    assert {"members", "options", "plan values", "2D network", "3D network"} <= set(found)
    assert found_in() == {}


class Undefaulted:
    """Options of which one has no default."""

    def __init__(self, *, epochs: int):
        """None."""


@pytest.mark.parametrize(
    ("members", "what", "reason"),
    [
        ({"one_gpu": "yes"}, "members", "one_gpu is 'yes', but bool is expected"),
        ({"usual_aggregator": 3}, "members", "usual_aggregator is 3, but str or None is expected"),
        ({"paper_graphs": ("a",)}, "members", "paper_graphs holds 'a'"),
        ({"takes_foreign_weights": True}, "members", "has no foreign_weights of its own"),
        ({"options_class": object}, "plan values", "options_class has no max_aux_cases"),
        ({"plan_values": lambda self, options: {}}, "members", "plan_values(options) cannot be called on the class"),
        ({"check_options": classmethod(lambda cls, options: None)}, "members", "check_options(options, patch_size)"),
        ({"options_class": Undefaulted}, "options", "epochs has no default"),
        ({"plan_values": classmethod(lambda cls, options: 3)}, "plan values", "returned int, but a mapping"),
    ],
)
def test_what_is_wrong_with_a_student_is_found(members, what, reason):
    assert reason in found_in(**members)[what]


def test_networks_are_tried():
    import torch
    from torch import nn

    from nnkd.errors import RecipeError

    class Half(nn.Module):
        def forward(self, x):
            return x[..., ::2].repeat(1, 3, 1, *[1] * (x.ndim - 3))

    class Two(nn.Module):
        def forward(self, x):
            return [x, x]

    class Endless(nn.Module):
        def forward(self, x):
            return torch.full((1, 3, *x.shape[2:]), torch.inf)

    def refuses(plans_manager, configuration_manager, *_, **__):
        if len(configuration_manager.patch_size) == 3:
            raise RecipeError("It is for slices.")
        return Endless()

    for network, reason in (
        (lambda *_, **__: Half(), "with shape (1, 3, 64, 32), but (1, 3, 64, 64) is expected"),
        (lambda *_, **__: Two(), "with list, but"),
        (refuses, "not finite"),
        (lambda *_, **__: 1 / 0, "ZeroDivisionError"),
    ):
        assert reason in found_in(build_network_architecture=staticmethod(network))["2D network"]
    found = outcomes("student", student(build_network_architecture=staticmethod(refuses)))
    assert found["3D network"] == ("not tried", "It is for slices.")
    assert "2D network" not in outcomes("student", student(no_network="Elsewhere."))


def test_students_with_data_of_their_own():
    from nnkd.plugin.registry import _class_problem
    from nnkd.plugin.students import OwnData
    from nnkd.training.recipe_trainer import RecipeTrainer

    class Incomplete(OwnData, RecipeTrainer):
        @classmethod
        def write_plans(cls, names):
            return "plans"

    entry = Entry("Incomplete", "a:Incomplete", "s", licence="MIT")
    assert _class_problem("student", entry, Incomplete) == "does not implement cases_of, lineage"
    members = {
        "cases_of": classmethod(lambda cls, folder: []),
        "lineage": classmethod(lambda cls, options: []),
        "no_network": "Elsewhere.",
    }
    wrong = type("Wrong", (Incomplete,), members)
    assert "lineage(options, names) cannot be called" in failures("student", wrong)["members"]
    right = type("Right", (wrong,), {"lineage": classmethod(lambda cls, options, names: [])})
    assert set(failures("student", right)) == {"pickle"}


def test_the_step_sums_up():
    good = Candidate("aggregator", Entry("share", "a:Share", "s", licence="MIT"), Share)
    bad = Candidate("aggregator", Entry("bad", "a:Bad", "s", licence="MIT"), None, "is no class")
    report = validate_plugin("package", [], [good, bad])
    assert report.data["failed"] == 1
    assert report.data["not_tried"] == 0
    assert len(report.lines) == len(report.data["checks"]) + 1
    assert sum(line.startswith("failed") for line in report.lines) == 1
    assert report.lines[-1].startswith("package: ")
