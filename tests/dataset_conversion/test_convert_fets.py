from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.fets import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import read_participants
from nnkd.errors import DatasetError

MAP = made_up.labels((0, 1, 2, 4))


@pytest.fixture(params=["FeTS2022_0000{}", "FeTS21_Training_00{}"])
def fets(request, tmp_path: Path) -> Path:
    root = tmp_path / "MICCAI_FeTS_TrainingData"
    rows = ["Partition_ID,Subject_ID"]
    for number in (1, 2, 3):
        name = request.param.format(number)
        for channel in ("t1", "t1ce", "t2", "flair"):
            made_up.volume(root / name / f"{name}_{channel}.nii.gz")
        made_up.volume(root / name / f"{name}_seg.nii.gz", MAP)
        rows += [f"{10 * number},{name}"] if number < 3 else []
    (root / "partitioning_1.csv").write_text("\n".join(rows) + "\n")
    return root


def test_regions_and_institutions(fets, nnunet_folders, capsys):
    assert main([str(fets), "-d", "729", "-n", "FeTS"]) == 0
    assert "2 institutions; 1 cases without one" in capsys.readouterr().out
    dataset = RawDataset.open(729)
    cases = dataset.images().cases()
    label_map = dataset.spec.read_label_map(dataset.label_file(cases[0]))[0]
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "enhancing tumor"), MAP == 4)
    np.testing.assert_array_equal(dataset.spec.mask(label_map, "tumor core"), np.isin(MAP, (1, 4)))
    people = read_participants(dataset.folder)
    assert [people[case].attributes.get("institution") for case in cases] == ["10", "20", None]


def test_what_is_missing(fets, nnunet_folders):
    case = next(path for path in sorted(fets.iterdir()) if path.is_dir())
    (case / f"{case.name}_flair.nii.gz").unlink()
    assert [failure.case for failure in convert(fets, "Dataset729_FeTS").failures] == [case.name]
    (fets / "partitioning_1.csv").write_text("Institution,Subject_ID\n1,a\n")
    with pytest.raises(DatasetError, match="lacks the column Partition_ID"):
        convert(fets, "Dataset730_FeTS")
    (fets / "partitioning_1.csv").unlink()
    with pytest.raises(DatasetError, match=r"has no partitioning_1\.csv"):
        convert(fets, "Dataset730_FeTS")
