"""What labels mean as codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.sr.codedict import codes as dicom

from nnkd.data.reading.dicom.codes import PRIVATE, CodeTable, Meaning
from nnkd.errors import SettingError

AMOS = ("spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "arota", "postcava",
        "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder")  # fmt: skip
BTCV = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal vein and splenic vein",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
TOTAL = ("lung_upper_lobe_left", "rib_right_7", "vertebrae_L3", "heart_myocardium", "iliac_vena_left", "hip_right",
         "costal_cartilages", "gluteus_minimus_left", "small_bowel", "face", "kidney_cyst_left")  # fmt: skip


@pytest.mark.parametrize("label", [*AMOS, *BTCV, *TOTAL])
def test_labels_of_common_datasets_have_codes(label: str) -> None:
    found = CodeTable.read().of(label)
    assert not found.is_private
    assert found.type.scheme == "SCT"
    assert ("left" in label or "right" in label) == (found.modifier is not None)


def test_categories_are_dicoms_own() -> None:
    own = {c.value for c in (dicom.SCT.Tissue, dicom.SCT.BodyStructure, dicom.SCT.PhysicalObject,
                             dicom.SCT.MorphologicallyAbnormalStructure)}  # fmt: skip
    assert {meaning.category.value for meaning in CodeTable.read().meanings.values()} <= own


@pytest.mark.parametrize(
    ("label", "code"),
    [("liver", "Liver"), ("tumor", "Neoplasm"), ("Left Lung", "Lung"), ("uterus", "Uterus"), ("edema", "Edema"),
     ("hippocampus", "Hippocampus"), ("head of femur left", "HeadOfFemur"), ("rectum", "Rectum")],
)  # fmt: skip
def test_codes_are_those_that_pydicom_has(label: str, code: str) -> None:
    assert CodeTable.read().of(label).type.value == getattr(dicom.SCT, code).value


def test_order_and_capitals_of_words_do_not_matter() -> None:
    table = CodeTable.read()
    assert table.of("Left Kidney") == table.of("kidney_left") == table.of("left-kidney")
    assert table.of("kidney_left") != table.of("kidney_right")


def test_other_labels_get_codes_of_their_own() -> None:
    table = CodeTable.read()
    one, other = table.of("strange thing"), table.of("another thing")
    assert one.is_private
    assert one.type.scheme == PRIVATE
    assert one.type.meaning == "strange thing"
    assert one.type.value != other.type.value
    assert len(one.type.value) <= 16
    assert table.of("肝").type.value != table.of("腎").type.value


def own(folder: Path, *lines: str) -> Meaning:
    file = folder / "own.tsv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CodeTable.read(file).of("liver")


def test_a_table_of_ones_own_comes_first(tmp_path: Path) -> None:
    found = own(tmp_path, "label\tcategory\ttype", "# a remark", "Liver\tSCT 85756007 Tissue\t99US 1 Our own liver")
    assert (found.type.scheme, found.type.value, found.type.meaning) == ("99US", "1", "Our own liver")
    assert CodeTable.read().of("liver").type.meaning == "Liver"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["liver\tSCT 1 a\tSCT 2 b"], "The first line"),
        (["label\tcategory\ttype", "liver\tSCT 85756007 Tissue"], "lacks a label"),
        (["label\tcategory\ttype", "liver\tTissue\tSCT 10200004 Liver"], "a scheme, a code and its meaning"),
        (["label\tcategory\ttype", "liver\tSCT 12345678901234567 T\tSCT 10200004 Liver"], "a scheme, a code"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        own(tmp_path, *lines)


def test_a_table_that_cannot_be_read_is_told_without_its_path(tmp_path):
    for content, why in ((None, "No such file"), (b"\xff\xfe", "no UTF-8")):
        if content:
            (tmp_path / "own.tsv").write_bytes(content)
        with pytest.raises(SettingError, match=rf"'own\.tsv' cannot be read \(.*{why}") as caught:
            CodeTable.read(tmp_path / "own.tsv")
        assert str(tmp_path) not in str(caught.value)
