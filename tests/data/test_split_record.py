"""nnkd.data.split_record: what is drawn, and when nothing is. What nnKD_split does with it: tests/steps."""

from __future__ import annotations

from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.split_record import Draw, Record, Wishes


def test_what_nobody_asks_for_is_not_drawn(dataset):
    before = {file: file.read_bytes() for file in dataset.folder.rglob("*") if file.is_file()}
    record = Record()
    record.draw_test(dataset, {}, Wishes(), set())
    record.draw_labelled(dataset, {}, Wishes(), set())
    assert record == Record()
    assert {file: file.read_bytes() for file in dataset.folder.rglob("*") if file.is_file()} == before


def test_what_lies_beside_a_tif_stack_moves_along(tmp_path):
    folder = tmp_path / "Dataset701_T"
    for to, names in (("imagesTr", ("c{}_0000", "c{}_0001")), ("labelsTr", ("c{}",))):
        (folder / to).mkdir(parents=True)
        for k in range(2):
            (folder / to / f"c{k}.json").write_text('{"spacing": [4, 1, 1]}')
            for name in names:
                (folder / to / f"{name.format(k)}.tif").write_bytes(b"a stack")
    write_dataset_json(folder, ["a", "b"], {"background": 0, "x": 1}, ".tif", 2)
    wishes = Wishes(folds=2, test=1)
    record = Record(test=Draw.of(1, wishes, ["c1"]))
    record.bring_about(RawDataset(folder))
    found = {part: sorted(p.name for p in (folder / part).iterdir()) for part in ("imagesTr", "imagesTs", "labelsTs")}
    assert found == {
        "imagesTr": ["c0.json", "c0_0000.tif", "c0_0001.tif"],
        "imagesTs": ["c1.json", "c1_0000.tif", "c1_0001.tif"],
        "labelsTs": ["c1.json", "c1.tif"],
    }
