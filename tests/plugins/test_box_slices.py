"""Tests of nnkd_litemedsam.slices, and of nnkd_litemedsam.trainers.embedding_files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from toy import toy_dataset, write_image

from nnkd.boxes.pixels import prepare, resize, scaled_shape
from nnkd.data.dataset import RawDataset, write_dataset_json
from nnkd.data.intensities import grey_scale, to_uint8
from nnkd.errors import DatasetError, FolderError, RecipeError, SettingError, UnknownNameError

torch = pytest.importorskip("torch")
from nnkd_litemedsam.slices import making  # noqa: E402
from nnkd_litemedsam.slices import plans as slice_plans  # noqa: E402
from nnkd_litemedsam.slices.loader import FixedSlices, Reader, Targets, box_around, collated  # noqa: E402
from nnkd_litemedsam.slices.store import SMALLEST, read_index  # noqa: E402
from nnkd_litemedsam.trainers.embedding_files import BYTES, SHAPE, EmbeddingFiles  # noqa: E402


@pytest.fixture
def scans(tmp_path, monkeypatch):
    """Three scans, two of them labelled, in the orientation that teachers see."""
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    return toy_dataset(tmp_path / "Dataset701_Toy", training=3, labelled=2, shape=(6, 60, 40))


def made(dataset, **settings):
    return making.update(dataset, dataset.folder / "slices", making.new_index(dataset, **settings))


def test_a_slice_is_what_the_teacher_sees(scans):
    slices = made(scans)
    volume, _, _ = scans.images().volume("toy_000")
    grey = to_uint8(volume.data[0, 2], grey_scale(volume.data, "CT"))
    picture, _ = slices.read("toy_000", 2)
    assert picture.shape == (256, 171, 3)
    assert np.array_equal(prepare(picture, 256), prepare(np.repeat(grey[..., None], 3, axis=-1), 256))
    assert np.array_equal(picture[..., 0], resize(grey[..., None], scaled_shape(grey.shape, 256))[..., 0])


def test_masks_are_the_label_maps_enlarged(scans):
    slices = made(scans)
    _, orientation, _ = scans.images().volume("toy_001")
    label_map = orientation.to_lps(scans.spec.read_label_map(scans.label_file("toy_001"))[0])
    record = slices.index.cases["toy_001"]
    for label, value in (("liver", 1), ("spleen", 2)):
        rows = dict(record.pixels[label])
        expected = {z: int((label_map[z] == value).sum()) for z in range(6) if (label_map[z] == value).any()}
        assert rows == expected
        z = max(rows, key=rows.get)
        mask = slices.mask(slices.read("toy_001", z)[1], label)
        assert mask.mean() == pytest.approx((label_map[z] == value).mean(), rel=0.05)
    assert slices.index.cases["toy_002"].pixels == {}
    assert [bool(slices.index.cases[f"toy_{i:03d}"].targets()) for i in range(3)] == [True, True, False]


def test_small_targets_are_left_out_of_supervised_training_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    folder = tmp_path / "Dataset702_Small"
    image = np.random.default_rng(0).normal(100, 10, (3, 30, 30)).astype(np.float32)
    image[2] = 7  # a slice of one value
    label_map = np.zeros((3, 30, 30), dtype=np.uint8)
    label_map[0, :4, :5] = 1  # 20 pixels
    label_map[1, :19, 0] = 1  # 19
    write_image(image, folder / "imagesTr" / "a_0000.nii.gz")
    write_image(label_map, folder / "labelsTr" / "a.nii.gz")
    write_dataset_json(folder, ["MR"], {"background": 0, "spot": 1}, ".nii.gz", 1)
    record = made(RawDataset(folder)).index.cases["a"]
    sizes = sorted(number for _, number in record.pixels["spot"])
    assert sizes == [19, SMALLEST]
    assert len(record.targets()) == 1
    assert len(record.content()) == 2


def test_labels_see_their_own_window(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    labels = {"background": 0, "lung": 1, "liver": 2, "tumour": 3}
    dataset = toy_dataset(tmp_path / "Dataset703_CT", training=1, labelled=1, labels=labels)
    slices = made(dataset, windows={"tumour": [30, 100]})
    assert slices.index.windows == [(-600.0, 1500.0), (40.0, 400.0), (30.0, 100.0)]
    assert slices.index.grey_of == {"lung": 0, "liver": 1, "tumour": 2}
    z = slices.index.cases["toy_000"].content()[0]
    assert not np.array_equal(slices.read("toy_000", z, 0)[0], slices.read("toy_000", z, 1)[0])
    assert [note["kind"] for note in slices.index.cases["toy_000"].grey] == ["window"] * 3


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_pictures_in_colour(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    from skimage.io import imsave

    folder = tmp_path / "Dataset704_Colour"
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    label_map = np.zeros((50, 70), dtype=np.uint8)
    label_map[10:30, 20:40] = 1
    for name, array in (("imagesTr/a_0000", image), ("labelsTr/a", label_map)):
        (folder / name).parent.mkdir(parents=True)
        imsave(str(folder / f"{name}{ending}"), array, check_contrast=False)
    write_dataset_json(folder, ["red", "green", "blue"], {"background": 0, "cell": 1}, ending, 1)
    slices = made(RawDataset(folder))
    assert slices.colour
    assert np.array_equal(prepare(slices.read("a", 0)[0], 256), prepare(image, 256))
    assert slices.index.cases["a"].pixels == {"cell": [(0, 400)]}


# --- only what is missing -----------------------------------------------------------------------------------------


def times(slices):
    return {file.stem: file.stat().st_mtime_ns for file in slices.folder.glob("*.b2nd")}


def test_only_what_changed_is_made_again(scans):
    before = times(made(scans))
    assert times(made(scans)) == before
    label = scans.label_file("toy_000")
    os.utime(label, ns=(1, 1))  # another time, the same content
    assert times(made(scans)) == before
    label_map, _, properties = scans.spec.read_label_map(label)
    scans.spec.write_label_map(label_map[:, ::-1].copy(), label, properties)
    after = times(made(scans))
    assert {case for case in after if after[case] != before[case]} == {"toy_000"}
    everything = times(made(scans, windows={"liver": "bone"}))
    assert all(everything[case] != after[case] for case in after)


def test_a_file_of_the_same_size_and_time_and_other_labels_are_seen(scans, caplog):
    before = times(made(scans))
    label = scans.label_file("toy_000")
    old, content = label.stat(), bytearray(label.read_bytes())
    other = bytearray(scans.label_file("toy_001").read_bytes())
    shutil.copyfile(scans.label_file("toy_001"), label)
    assert content != other
    os.utime(label, ns=(old.st_atime_ns, old.st_mtime_ns))
    with caplog.at_level("INFO", "nnkd"):
        after = times(made(scans))
    assert {case for case in after if after[case] != before[case]} == {"toy_000"}
    assert "Slices of Dataset701_Toy: 1 made anew: changed label map" in caplog.text
    write_dataset_json(scans.folder, ["CT"], {"background": 0, "liver": 2, "spleen": 1}, ".nii.gz", 3)
    with caplog.at_level("INFO", "nnkd"):
        slices = made(RawDataset(scans.folder))
    assert "3 made anew: changed label meaning, settings" in caplog.text
    assert slices.index.labels["liver"] == [2]


@pytest.mark.parametrize("holds", [True, False])
def test_slices_of_an_earlier_version_are_taken_over_if_they_hold(scans, holds):
    slices = made(scans)
    before, file = times(slices), slices.folder / "index.json"
    index, settings = json.loads(file.read_text()), slices.index.settings()
    for case, record in index["cases"].items():  # as it was written
        files = making._inputs(scans, scans.images(), case)
        text = "".join(f"{f.parent.name} {hashlib.sha256(f.read_bytes()).hexdigest()}\n" for f in files) + settings
        del record["origins"]
        record |= {"input": hashlib.sha256(text.encode()).hexdigest() if holds else "0" * 64, "files": {}}
    file.write_text(json.dumps(index))
    after = made(scans)
    assert all((times(after)[case] == before[case]) == holds for case in before)
    assert all(record["origins"] and "input" not in record for record in json.loads(file.read_text())["cases"].values())


def test_a_killed_run_goes_on_and_cases_that_went_are_forgotten(scans):
    slices = made(scans)
    before = times(slices)
    slices.file("toy_001").unlink()
    (slices.folder / ".writing-x-toy_001.b2nd").write_bytes(b"half")
    index = json.loads((slices.folder / "index.json").read_text())
    del index["cases"]["toy_002"]  # killed before it was noted
    (slices.folder / "index.json").write_text(json.dumps(index))
    for file in (*scans.images().files("toy_000"), scans.label_file("toy_000")):
        file.unlink()
    after = times(made(RawDataset(scans.folder)))
    assert sorted(after) == ["toy_001", "toy_002"]
    assert all(after[case] != before[case] for case in after)
    assert list(read_index(slices.folder, "x").cases) == ["toy_001", "toy_002"]
    assert not list(slices.folder.glob(".writing*"))


def test_a_broken_image_does_not_stop_the_others(scans):
    scans.images().files("toy_001")[0].write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"^1 case\(s\) of Dataset701_Toy .* 'toy_001'"):
        made(scans)
    assert sorted(read_index(scans.folder / "slices", "x").cases) == ["toy_000", "toy_002"]


def test_wrong_settings_get_one_sentence(scans):
    with pytest.raises(SettingError, match="neither"):
        made(scans, windows={"liver": "wide"})
    with pytest.raises(UnknownNameError, match="'T2', but Dataset701_Toy has CT"):
        made(scans, channel="T2")
    (scans.folder / "slices").mkdir()
    (scans.folder / "slices" / "index.json").write_text("{")
    with pytest.raises(DatasetError, match="Delete the folder"):
        made(scans)


# --- samples ------------------------------------------------------------------------------------------------------


def reader_of(dataset, **keywords) -> Reader:
    slices = made(dataset)
    return Reader({dataset.name: slices}, False, **keywords)


def test_a_box_holds_its_mask_and_jitter_goes_outwards(scans):
    reader = reader_of(scans, targets=Targets(jitter=10))
    rng = np.random.default_rng(0)
    for _ in range(20):
        z = reader.choices("toy_000")[rng.integers(len(reader.choices("toy_000")))]
        sample = reader.sample("toy_000", z, rng, flips=True)
        exact = box_around(sample.mask[: sample.shape[0], : sample.shape[1]], 0, rng)
        out = np.abs(sample.box - exact)
        assert (sample.box[:2] <= exact[:2]).all()
        assert (sample.box[2:] >= exact[2:]).all()
        assert out.max() <= 10
        assert (sample.box == np.floor(sample.box)).all()
        assert not sample.mask[sample.shape[0] :].any()
        assert not sample.mask[:, sample.shape[1] :].any()


def test_flips_move_image_and_mask_together_before_padding(scans):
    reader = reader_of(scans, targets=Targets(jitter=0))
    z = reader.choices("toy_000")[0]
    plain = reader.sample("toy_000", z, np.random.default_rng(0), flips=False)
    height, width = plain.shape
    seen = set()
    for seed in range(40):
        sample = reader.sample("toy_000", z, np.random.default_rng(seed), flips=True)
        if sample.label != plain.label:
            continue
        image, mask = plain.image[:, :height, :width], plain.mask[:height, :width]
        for axes in ((), (1,), (2,), (1, 2)):
            if np.array_equal(sample.image[:, :height, :width], np.flip(image, axes)):
                seen.add(axes)
                assert np.array_equal(sample.mask[:height, :width], np.flip(mask, [axis - 1 for axis in axes]))
        assert not sample.image[:, :, width:].any()
    assert len(seen) == 4


def test_one_component_is_a_target(scans):
    reader = reader_of(scans, targets=Targets(box="component", jitter=0))
    slices = next(iter(reader.datasets.values()))
    stored = slices.read("toy_000", 3)
    twice = stored[1].copy()
    twice[:] = 0
    twice[10:60, 10:60] = twice[100:160, 60:130] = 1
    twice[200, 5] = 1  # a speck
    object.__setattr__(slices, "read", lambda *_: (stored[0], twice))
    z = reader.choices("toy_000")[0]
    slices.index.cases["toy_000"].pixels = {"liver": [(z, 500)]}
    sizes = {int(reader.sample("toy_000", z, np.random.default_rng(i), False).mask.sum()) for i in range(12)}
    assert sizes == {2500, 4200}


def test_validation_slices_are_the_same_in_each_round(scans):
    reader = reader_of(scans, targets=Targets())
    pairs = reader.fixed(["toy_000", "toy_001"])
    assert len(pairs) == len(set(pairs)) == sum(len(reader.choices(key)) for key in ("toy_000", "toy_001"))
    loader = FixedSlices(reader, pairs, 3)
    first, second = ([next(loader) for _ in range(len(loader))] for _ in range(2))
    assert [batch["keys"] for batch in first] == [batch["keys"] for batch in second]
    assert sum(len(batch["keys"]) for batch in first) == len(pairs)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["boxes"], other["boxes"])
        assert torch.equal(one["data"], other["data"])
    assert reader.fixed(["toy_000", "toy_001"], 2) == pairs[:2]


# --- embeddings on disk -------------------------------------------------------------------------------------------


def picture(value: int) -> np.ndarray:
    return np.full((4, 5, 3), value, dtype=np.uint8)


def test_embeddings_are_kept_within_a_budget(tmp_path):
    files = EmbeddingFiles({"d": tmp_path}, "a" * 64, 2 * BYTES).open(3)
    embedding = torch.randn(SHAPE)
    for value in range(3):
        files.write(files.file("d", picture(value)), embedding)
    there = [EmbeddingFiles.read(files.file("d", picture(value))) is not None for value in range(3)]
    assert there == [True, True, False]
    kept = EmbeddingFiles.read(files.file("d", picture(0)))
    assert torch.equal(kept, embedding.half())
    again = EmbeddingFiles({"d": tmp_path}, "a" * 64, 2 * BYTES).open(3)
    assert again.used == files.used
    roomy = EmbeddingFiles({"d": tmp_path}, "b" * 64, 4 * BYTES).open(2)  # another teacher, and room for both
    assert EmbeddingFiles.read(files.file("d", picture(0))) is not None
    assert roomy.budget == 2 * BYTES
    other = EmbeddingFiles({"d": tmp_path}, "b" * 64, 2 * BYTES).open(1)  # no room for both
    assert EmbeddingFiles.read(files.file("d", picture(0))) is None
    other.write(other.file("d", picture(0)), embedding)
    assert EmbeddingFiles.read(other.file("d", picture(0))) is not None
    assert other.used <= other.budget


def test_a_kept_embedding_of_somebody_else_takes_no_memory_and_runs_nothing(tmp_path):
    file = tmp_path / "a.npy"
    np.save(file, np.zeros(SHAPE, np.float16))
    whole = file.read_bytes()
    assert EmbeddingFiles.read(file) is not None
    huge = whole.replace(b"(256, 64, 64), }   ", b"(256, 64, 6400000000), }"[:24].ljust(24))
    for content in (whole[:-1], whole.replace(b"<f2", b"|O "), b"PK\3\4", huge, b""):
        file.write_bytes(content)
        assert EmbeddingFiles.read(file) is None
    np.savez(tmp_path / "b.npz", a=np.zeros(SHAPE, np.float16))
    assert EmbeddingFiles.read((tmp_path / "b.npz").rename(file)) is None


def test_half_written_embeddings_are_computed_again(tmp_path):
    files = EmbeddingFiles({"d": tmp_path}, "a" * 64, BYTES).open(1)
    file = files.file("d", picture(0))
    files.write(file, torch.zeros(SHAPE))
    file.write_bytes(file.read_bytes()[:1000])
    assert EmbeddingFiles.read(file) is None
    files.write(file, torch.ones(SHAPE))
    assert EmbeddingFiles.read(file).sum() == np.prod(SHAPE)


def test_a_flipped_picture_has_an_embedding_of_its_own(scans, tmp_path):
    files = EmbeddingFiles({scans.name: tmp_path}, "a" * 64, BYTES)
    reader = reader_of(scans, files=files)
    z = reader.choices("toy_002")[0]
    rngs = [np.random.default_rng(seed) for seed in range(30)]
    assert len({reader.sample("toy_002", z, rng, flips=True).file for rng in rngs}) == 4
    batch = collated([reader.sample("toy_002", z, rngs[0], flips=False)])
    assert batch["embeddings"] == [None]
    assert "target" not in batch


# --- plans --------------------------------------------------------------------------------------------------------


def test_a_dataset_without_labels_or_planning_gets_plans(nnunet_folders):
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset705_Bare", labelled=0)
    assert slice_plans.write_plans([dataset.name]) == "LiteMedSAMPlans"
    folder = nnunet_folders / "nnUNet_preprocessed" / dataset.name
    plans = json.loads((folder / "LiteMedSAMPlans.json").read_text())
    assert plans["configurations"]["2d"]["batch_size"] == 8
    assert slice_plans.cases_of(folder) == [f"toy_{i:03d}" for i in range(4)]
    with pytest.raises(RecipeError, match="Start it with nnKD_train"):
        slice_plans.check_plans({"plans_name": "nnUNetPlans", "configurations": {"2d": {}}}, "2d", "x")


def test_without_raw_there_must_be_slices(nnunet_folders, monkeypatch):
    dataset = toy_dataset(nnunet_folders / "nnUNet_raw" / "Dataset706_Moved", labelled=4)
    slice_plans.write_plans([dataset.name])
    folder = nnunet_folders / "nnUNet_preprocessed" / dataset.name
    monkeypatch.setenv("nnUNet_raw", str(nnunet_folders / "nowhere"))
    with pytest.raises(FolderError, match="no slices of it"):
        slice_plans.write_plans([dataset.name])
    making.update(dataset, folder / "litemedsam_256", making.new_index(dataset))
    assert slice_plans.write_plans([dataset.name]) == "LiteMedSAMPlans"
    assert len(slice_plans.cases_of(folder)) == 4
