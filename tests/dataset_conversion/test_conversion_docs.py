"""The whole conversion that docs/dataset_conversion.md shows is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import made_up
import pytest

from nnkd.cli.convert_dataset import conversions
from nnkd.data.dataset import RawDataset

PAGE = (Path(__file__).parents[2] / "docs" / "dataset_conversion.md").read_text(encoding="utf-8")


@pytest.mark.heavy
def test_the_example_converts_a_folder(tmp_path, nnunet_folders):
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    (tmp_path / "my_liver.py").write_text(code)
    for k in range(2):
        made_up.volume(tmp_path / "in" / "scans" / f"p {k}.nii.gz", seed=k)
    made_up.volume(tmp_path / "in" / "liver" / "p 1.nii.gz", made_up.labels((0, 1)))
    command = [sys.executable, tmp_path / "my_liver.py", tmp_path / "in", "-d", "750", "-n", "Liver"]
    subprocess.run(command, check=True, capture_output=True)
    dataset = RawDataset.open(750)
    assert dataset.images().cases() == ["p_0", "p_1"]
    assert [dataset.label_file(case).is_file() for case in ("p_0", "p_1")] == [False, True]


def test_the_page_lists_every_conversion():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(conversions())
