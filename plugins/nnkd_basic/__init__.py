"""What every installation has: classical and imported teachers, simple aggregators, nnU-Net's network as a student."""

from nnkd import Entry, hookimpl

LICENCE = "Apache-2.0"
PAPER_1 = "Li et al., MICCAI 2025"


@hookimpl
def nnkd_register_teachers():
    """Teachers that bring no weights of their own."""
    return [
        Entry(
            "atlas",
            "nnkd_basic.atlas:AtlasTeacher",
            "registers labelled cases to the scan and fuses their labels (SimpleITK)",
            source="SimpleITK registration",
            licence=LICENCE,
        ),
        Entry(
            "imported",
            "nnkd_basic.imported:ImportedTeacher",
            "takes masks that another program wrote, after checking their geometry",
            licence=LICENCE,
        ),
        Entry(
            "external",
            "nnkd_basic.external:ExternalProgramTeacher",
            "runs any program that reads and writes NIfTI, by a command line that you give",
            licence=LICENCE,
        ),
        Entry(
            "nnunet",
            "nnkd_basic.nnunet_model:NnUNetTeacher",
            "asks any trained nnU-Net v2 model, your own or a published one",
            source="nnU-Net",
            licence=LICENCE,
        ),
    ]


@hookimpl
def nnkd_register_aggregators():
    """Rules from votes to targets."""
    return [
        Entry("mean", "nnkd_basic.aggregators:Mean", "mean vote of the answering teachers", PAPER_1, LICENCE),
        Entry(
            "majority",
            "nnkd_basic.aggregators:Majority",
            "more than half of the answering teachers; ties by agreement weights, no or yes",
            PAPER_1,
            LICENCE,
        ),
        Entry(
            "weighted",
            "nnkd_basic.weighted:Weighted",
            "weighted share of the answering teachers; weights given, or estimated from agreement with the majority",
            licence=LICENCE,
        ),
        Entry(
            "staple",
            "nnkd_basic.staple:Staple",
            "STAPLE: the label's probability, with each teacher's sensitivity and specificity estimated per case",
            "Warfield et al., IEEE TMI 2004",
            LICENCE,
        ),
        Entry(
            "multilabel_staple",
            "nnkd_basic.multilabel_staple:MultilabelStaple",
            "STAPLE for all labels at once, with each teacher's confusion matrix; for nnKD_aggregate, not recipes",
            "Warfield et al., IEEE TMI 2004",
            LICENCE,
        ),
        Entry(
            "random_teacher",
            "nnkd_basic.aggregators:RandomTeacher",
            "one answering teacher, drawn anew for each training sample",
            PAPER_1,
            LICENCE,
        ),
    ]


@hookimpl
def nnkd_register_students():
    """Trainers for -tr."""
    return [
        Entry(
            "nnUNetTrainerKD",
            "nnkd.training.trainer:nnUNetTrainerKD",
            "nnU-Net's planned network, distilled from the recipe's teachers",
            PAPER_1,
            LICENCE,
        ),
    ]


@hookimpl
def nnkd_register_samplers():
    """Rules that form batches."""
    return [
        Entry(
            "uniform",
            "nnkd_basic.samplers:Uniform",
            "every case as likely as any other (nnU-Net's)",
            "nnU-Net",
            LICENCE,
        )
    ]
