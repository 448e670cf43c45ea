"""MedSAM2's second mode: the same masks as sam2's own video predictor, with a tiny image encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extras import needs
from hypothesis import given
from hypothesis import strategies as st

from nnkd.errors import PredictionError, WeightsError
from nnkd.plugin.options import parse_options
from nnkd.teachers.embeddings import MIB, EmbeddingCache
from nnkd.types import SliceBoxes, TeacherContext, Volume

pytestmark = needs("sam2")

from nnkd_sam import sam2_video  # noqa: E402
from nnkd_sam.medsam2 import MedSAM2Teacher  # noqa: E402
from nnkd_sam.sam2_video import Film, build_video, key_boxes, largest_part, prepared  # noqa: E402

SMALL = (
    "model.image_encoder.trunk.embed_dim=16",
    "model.image_encoder.trunk.stages=[1,1,1,1]",
    "model.image_encoder.trunk.global_att_blocks=[]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "model.memory_attention.num_layers=1",
)
SHAPE = (5, 40, 30)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build_video(SMALL).requires_grad_(False)
    for mlp in network.sam_mask_decoder.output_hypernetworks_mlps:
        torch.nn.init.normal_(mlp.layers[-1].bias)  # masks that are neither empty nor full
    for part in network.sam_mask_decoder.pred_obj_score_head.layers[-1:]:
        torch.nn.init.constant_(part.bias, 5.0)  # the object is there
    return network


@pytest.fixture(scope="module")
def pictures():
    grey = np.random.default_rng(0).integers(0, 256, (*SHAPE, 1), dtype=np.uint8)
    return list(np.repeat(grey, 3, axis=-1))


@torch.inference_mode()
def upstream(network, pictures, key, corners, monkeypatch):
    """The steps of MedSAM2's published script, on sam2's own state: forwards, then backwards from one box."""
    from sam2 import sam2_video_predictor

    frames = torch.stack([prepared(one) for one in pictures])
    height, width = pictures[0].shape[:2]
    monkeypatch.setattr(sam2_video_predictor, "load_video_frames", lambda **_: (frames, height, width))
    state = network.init_state("a film")
    mask = np.zeros((len(pictures), height, width), dtype=bool)
    for reverse in (False, True):
        network.add_new_points_or_box(state, frame_idx=key, obj_id=1, box=corners)
        for index, _, logits in network.propagate_in_video(state, reverse=reverse):
            mask[index, (logits[0] > 0)[0].numpy()] = True
        network.reset_state(state)
    return mask


@pytest.mark.parametrize(("key", "limit"), [(2, 0), (2, 64 * MIB), (0, 0), (4, 64 * MIB)])
def test_a_film_is_followed_as_sam2_follows_it(network, pictures, monkeypatch, key, limit):
    monkeypatch.setattr(sam2_video, "largest_part", lambda mask: mask)
    film = Film(network, pictures, first=3, cache=EmbeddingCache(limit))
    with torch.inference_mode():
        found = film.follow(key + 3, (5, 4, 30, 25), (3, 7))
    expected = upstream(network, pictures, key, np.array([4, 5, 25, 30], dtype=np.float32), monkeypatch)
    np.testing.assert_array_equal(found, expected)
    assert 0.02 < found.mean() < 0.98
    assert film.encoded == 5 or not limit  # each slice once, where embeddings are kept


def test_slices_beyond_the_last_box_are_not_looked_at(network, pictures):
    film = Film(network, pictures, first=0, cache=EmbeddingCache(64 * MIB))
    with torch.inference_mode():
        found = film.follow(2, (5, 4, 30, 25), (1, 3))
    assert film.encoded == 3
    assert not found[[0, 4]].any()


def volume(shape=SHAPE) -> Volume:
    data = np.random.default_rng(1).normal(0, 200, (1, *shape)).astype(np.float32)
    return Volume("x", data, (1, 1, 1), (0, 0, 0), np.eye(3), ("CT",))


def made(network, tmp_path, **options) -> MedSAM2Teacher:
    class Small(MedSAM2Teacher):
        def _build(self, *_):
            return build_video(SMALL)

    torch.save({"model": network.state_dict()}, tmp_path / "own.pt")
    given = parse_options(Small, {"weights": str(tmp_path / "own.pt"), "mode": "video", **options}, "medsam2")
    return Small(TeacherContext(("liver", "spleen", "lung")), **given)


def test_a_whole_case(network, tmp_path, caplog):
    teacher = made(network, tmp_path)
    assert "only where the file came from tells" in teacher.notes()["weights"]
    prompts = {
        "liver": SliceBoxes([(1, 5, 4, 30, 25), (2, 6, 4, 20, 25), (3, 5, 4, 9, 25)]),
        "spleen": SliceBoxes([(3, 0, 0, 9, 9)]),
        "lung": SliceBoxes([]),
    }
    answers = teacher.predict(volume(), prompts)
    assert {label: (mask.shape, mask.dtype) for label, mask in answers.items()} == {
        label: (SHAPE, np.dtype(bool)) for label in prompts
    }
    assert answers["liver"].any()
    assert not answers["liver"][[0, 4]].any()
    assert not answers["spleen"][[0, 1, 2, 4]].any()
    assert not answers["lung"].any()
    assert teacher.notes()["encoded_slices"] == 3
    assert set(teacher.notes()["intensities"]) == set(prompts)


def test_boxes_are_checked(network, tmp_path):
    with pytest.raises(PredictionError, match="leaves the volume"):
        made(network, tmp_path).predict(volume(), {"liver": SliceBoxes([(9, 0, 0, 5, 5)])})


def test_weights_of_the_other_mode(tmp_path):
    from nnkd_sam.sam2 import build

    torch.save({"model": build("hiera_t", "2.0").state_dict()}, tmp_path / "old.pt")
    given = parse_options(MedSAM2Teacher, {"weights": str(tmp_path / "old.pt"), "mode": "video"}, "medsam2")
    with pytest.raises(WeightsError, match="or the teacher medsam2 with mode=image"):
        MedSAM2Teacher(TeacherContext(("liver",)), **given)


def test_the_key_slice_has_the_largest_boxes():
    rows = [(4, 0, 0, 5, 5), (2, 0, 0, 4, 4), (2, 5, 5, 9, 9), (7, 0, 0, 1, 1), (3, 0, 0, 4, 8)]
    assert key_boxes(SliceBoxes(rows)) == (2, [(0, 0, 4, 4), (5, 5, 9, 9)], (2, 7))


@given(st.integers(0, 2**16 - 1))
def test_the_largest_part_is_one_of_the_parts(bits):
    mask = np.array([bits >> i & 1 for i in range(16)], dtype=bool).reshape(1, 4, 4)
    kept = largest_part(mask)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    from scipy import ndimage

    parts, number = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    assert kept.sum() == (sizes.max() if number else 0)
