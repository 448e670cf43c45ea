from __future__ import annotations

import json
from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.amos22 import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.errors import DatasetError, FolderError

PUBLISHED = [
    "background",
    "spleen",
    "right kidney",
    "left kidney",
    "gall bladder",
    "esophagus",
    "liver",
    "stomach",
    "arota",
    "postcava",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
    "duodenum",
    "bladder",
    "prostate/uterus",
]


@pytest.fixture
def amos(tmp_path: Path) -> Path:
    folder = tmp_path / "download" / "amos22"
    for split, numbers in {"Tr": (1, 507), "Va": (8,), "Ts": (2, 600)}.items():
        for number in numbers:
            made_up.volume(folder / f"images{split}" / f"amos_{number:04d}.nii.gz")
            if split != "Ts":
                made_up.volume(folder / f"labels{split}" / f"amos_{number:04d}.nii.gz", made_up.labels(range(16)))
    (folder / "dataset.json").write_text(json.dumps({"labels": {str(k): name for k, name in enumerate(PUBLISHED)}}))
    return folder


@pytest.mark.parametrize(
    ("arguments", "training", "test", "channel"),
    [
        ([], ["amos_0001", "amos_0008"], ["amos_0002"], "CT"),
        (["--validation", "test"], ["amos_0001"], ["amos_0002", "amos_0008"], "CT"),
        (["--modality", "MRI"], ["amos_0507"], ["amos_0600"], "MRI"),
        (["--modality", "both"], ["amos_0001", "amos_0008", "amos_0507"], ["amos_0002", "amos_0600"], "CT or MRI"),
    ],
)
def test_modalities_and_splits(amos, nnunet_folders, arguments, training, test, channel, capsys):
    assert main([str(amos.parent), "-d", "723", "-n", "AMOS", *arguments]) == 0
    assert ("left out (--modality)" in capsys.readouterr().out) == ("both" not in arguments)
    dataset = RawDataset.open(723)
    assert (dataset.images().cases(), dataset.images("Ts").cases()) == (training, test)
    assert dataset.spec.channel_names == (channel,)
    names = ["aorta" if name == "arota" else name for name in PUBLISHED]
    assert dataset.spec.labels == {name: (k,) for k, name in enumerate(names) if k}
    label_map = dataset.spec.read_label_map(dataset.label_file(training[0]))[0]
    np.testing.assert_array_equal(label_map, made_up.labels(range(16)))


def test_what_is_not_as_published(amos, nnunet_folders, tmp_path):
    (amos / "labelsTr" / "amos_0507.nii.gz").unlink()
    report = convert(amos, "Dataset723_AMOS", modality="both")
    assert [(f.case, f.reason.split(",")[0]) for f in report.failures] == [("amos_0507", "It has no label map")]
    assert not convert(amos, "Dataset724_AMOS").failures
    made_up.volume(amos / "imagesTs" / "amos_7296.nii.gz")
    with pytest.raises(DatasetError, match="'amos_7296' is not one of AMOS22's cases"):
        convert(amos, "Dataset725_AMOS")
    (amos / "dataset.json").write_text(json.dumps({"labels": {"1": "liver"}}))
    with pytest.raises(DatasetError, match="calls 1 liver, but it was published as spleen"):
        convert(amos, "Dataset725_AMOS")
    with pytest.raises(FolderError, match="has no imagesTr, so it is not AMOS22 as published"):
        convert(amos / "imagesTr", "Dataset725_AMOS")
