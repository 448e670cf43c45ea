from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.wmh import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import read_participants
from nnkd.errors import FolderError

MAP = made_up.labels((0, 1, 2))


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    root = tmp_path / "dataverse_files"
    for folder in ("training/Utrecht/0", "training/Singapore/50", "training/Amsterdam/GE3T/100", "test/Utrecht/3"):
        for kind in ("pre", "orig"):
            made_up.volume(root / folder / kind / "FLAIR.nii.gz", np.full((5, 6, 7), 1 + (kind == "orig"), np.int16))
            made_up.volume(root / folder / kind / "T1.nii.gz", np.full((5, 6, 7), 7, np.int16))
        made_up.volume(root / folder / "wmh.nii.gz", MAP)
    made_up.volume(
        root / "additional_annotations" / "observer_o3" / "training" / "Utrecht" / "0" / "result.nii.gz", MAP
    )
    return root


@pytest.mark.parametrize(
    ("other", "labels", "expected"),
    [
        ("ignore", {"WMH": (1,)}, MAP),
        ("label", {"WMH": (1,), "other pathology": (2,)}, MAP),
        ("background", {"WMH": (1,)}, (MAP == 1).astype(np.uint8)),
    ],
)
def test_labels_sites_and_splits(challenge, nnunet_folders, other, labels, expected):
    assert main([str(challenge), "-d", "728", "-n", "WMH", "--other", other]) == 0
    dataset = RawDataset.open(728)
    assert dataset.images().cases() == ["Amsterdam_GE3T_100", "Singapore_50", "Utrecht_0"]
    assert dataset.images("Ts").cases() == ["Utrecht_3"]
    assert dataset.spec.channel_names == ("FLAIR", "T1")
    assert dataset.images().read("Utrecht_0")[0][:, 0, 0, 0].tolist() == [1, 7]
    assert dataset.spec.labels == labels
    assert dataset.spec.ignore_label == (2 if other == "ignore" else None)
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("Singapore_50"))[0], expected)
    people = read_participants(dataset.folder)
    assert people["Amsterdam_GE3T_100"].attributes["site"] == "Amsterdam_GE3T"


def test_what_is_missing_fails_the_case(challenge, nnunet_folders):
    (challenge / "training" / "Utrecht" / "0" / "wmh.nii.gz").unlink()
    (challenge / "training" / "Singapore" / "50" / "pre" / "T1.nii.gz").unlink()
    for image in (challenge / "training" / "Amsterdam" / "GE3T" / "100" / "pre").iterdir():
        image.unlink()
    report = convert(challenge, "Dataset728_WMH")
    assert report.done == ["Utrecht_3"]
    assert {failure.case: failure.reason.split(".")[0] for failure in report.failures} == {
        "Utrecht_0": "It lacks wmh",
        "Singapore_50": "It lacks T1",
        "Amsterdam_GE3T_100": "It lacks FLAIR",
    }


def test_the_hidden_test_set_has_no_label_maps(challenge, nnunet_folders):
    (challenge / "test" / "Utrecht" / "3" / "wmh.nii.gz").unlink()
    assert convert(challenge, "Dataset728_WMH").data["labelsTs"] == 0


def test_a_wrong_layout(challenge, nnunet_folders, tmp_path):
    with pytest.raises(FolderError, match="has no training, so it is not the WMH challenge's data"):
        convert(challenge / "test" / "Utrecht" / "3", "Dataset728_WMH")
    (tmp_path / "empty" / "training").mkdir(parents=True)
    with pytest.raises(FolderError, match="no training/SITE/ID/pre/FLAIR"):
        convert(tmp_path / "empty", "Dataset728_WMH")
