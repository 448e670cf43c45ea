from __future__ import annotations

from pathlib import Path

import made_up
import numpy as np
import pytest
from nnkd_dataset_conversion.totalsegmentator import convert, main

from nnkd.data.dataset import RawDataset
from nnkd.data.participants import read_participants
from nnkd.errors import DatasetError, FolderError

META = "image_id;age;gender;institute;study_type;split\ns0000;63;m;A;ct thorax;train\ns0001;;f;B;ct;test\n"


def tree(folder: Path, masks, image: str = "ct.nii.gz") -> list[np.ndarray]:
    made = []
    for k in range(2):
        made_up.volume(folder / f"s{k:04d}" / image, seed=k)
        made.append(made_up.labels((0, 1, 2), seed=k))
        for integer, name in enumerate(masks, start=1):
            file = folder / f"s{k:04d}" / "segmentations" / f"{name}.nii.gz"
            made_up.volume(file, (made[-1] == integer).astype(np.uint8))
    (folder / "meta.csv").write_text(META, encoding="utf-8-sig")
    return made


@pytest.mark.parametrize(
    ("image", "masks", "channel", "said"),
    [
        ("ct.nii.gz", ("heart_myocardium", "liver"), "CT", "CT: v1, 2 of 104 masks."),
        ("ct.nii.gz", ("atrial_appendage_left", "liver"), "CT", "CT: v2, 2 of 117 masks."),
        ("mri.nii.gz", ("heart", "liver"), "MRI", "MRI: 2 masks."),
    ],
)
def test_each_version(tmp_path, nnunet_folders, image, masks, channel, said, capsys):
    made = tree(tmp_path / "T", masks, image)
    assert main([str(tmp_path / "T"), "-d", "722", "-n", "Organs"]) == 0
    assert f"Recognised TotalSegmentator {said}" in capsys.readouterr().out
    dataset = RawDataset.open(722)
    assert dataset.spec.channel_names == (channel,)
    assert dataset.spec.labels == {masks[0]: (1,), masks[1]: (2,)}
    assert (dataset.images().cases(), dataset.images("Ts").cases()) == (["s0000"], ["s0001"])
    np.testing.assert_array_equal(dataset.spec.read_label_map(dataset.label_file("s0001", "Ts"))[0], made[1])
    people = read_participants(dataset.folder)
    assert (people["s0000"].sex, people["s0000"].age, dict(people["s0000"].attributes)) == (
        "M",
        63.0,
        {"institute": "A"},
    )


def test_what_is_mixed_is_refused(tmp_path, nnunet_folders):
    tree(tmp_path / "T", ("heart_myocardium", "atrial_appendage_left"))
    with pytest.raises(DatasetError, match="masks of v1 and of v2"):
        convert(tmp_path / "T", "Dataset722_Organs")
    tree(tmp_path / "M", ("liver", "heart"))
    tree(tmp_path / "M", ("liver", "heart"), "mri.nii.gz")
    with pytest.raises(DatasetError, match="holds CT and MR images"):
        convert(tmp_path / "M", "Dataset722_Organs")
    assert convert(tmp_path / "M", "Dataset722_Organs", modality="MRI", ignore_split=True).data["labelsTr"] == 2


def test_a_missing_mask_and_a_wrong_layout(tmp_path, nnunet_folders):
    tree(tmp_path / "T", ("atrial_appendage_left", "liver"))
    (tmp_path / "T" / "s0001" / "segmentations" / "liver.nii.gz").unlink()
    report = convert(tmp_path / "T", "Dataset722_Organs")
    assert (report.done, [failure.case for failure in report.failures]) == (["s0000"], ["s0001"])
    (tmp_path / "T" / "s0001" / "segmentations" / "atrial_appendage_left.nii.gz").unlink()
    assert any("1 cases have no mask" in line for line in convert(tmp_path / "T", "Dataset723_Organs").lines)
    with pytest.raises(FolderError, match=r"no CASE/ct\.nii\.gz and no CASE/mri\.nii\.gz"):
        convert(tmp_path, "Dataset724_Organs")
