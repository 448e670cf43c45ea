"""nnkd_sam: answers equal those of the packages' own predictors; the real architectures, with random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from extras import needs

from nnkd.errors import BrokenPluginError, NnkdError, SettingError, WeightsError
from nnkd.files import sha256
from nnkd.networks.costs import count
from nnkd.networks.papers import paper_count
from nnkd.plugin.options import parse_options
from nnkd.types import SliceBoxes, TeacherContext, TextPrompt, Volume
from nnkd.weights import store
from nnkd.weights.store import find, known

pytestmark = [needs("sam"), pytest.mark.heavy]
needs_thop = needs("profile")

from nnkd_sam import checkpoints, sam  # noqa: E402
from nnkd_sam.sam import MedSAMTeacher, SAMTeacher, build  # noqa: E402
from nnkd_sam.shared import SIZE  # noqa: E402

SHAPES = [(60, 40), (400, 1100), (9, 5)]


def small_network(width: int = 16) -> torch.nn.Module:
    """segment-anything's network with a tiny image encoder; the prompt encoder and the decoder are the real ones."""
    from segment_anything.build_sam import _build_sam

    torch.manual_seed(0)
    network = _build_sam(width, encoder_depth=2, encoder_num_heads=2, encoder_global_attn_indexes=[])
    torch.nn.init.normal_(network.mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias)  # masks far from all 0
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The small network's weights on disk."""
    file = tmp_path_factory.mktemp("sam") / "small.pth"
    torch.save(small_network().state_dict(), file)
    return file


def made(base, checkpoint, labels=("liver", "lung", "spleen"), **options):
    """A teacher with the small network; counts what it encodes."""

    class Small(base):
        encoded: list[np.ndarray]

        def _build(self, model):
            self.encoded = []
            return small_network()

        def _encode(self, images):
            self.encoded += images
            return super()._encode(images)

    checked = parse_options(base, {"weights": str(checkpoint), **options}, base.name)
    return Small(TeacherContext(tuple(labels)), **checked)


def picture(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def boxes_in(shape) -> np.ndarray:
    """Rows (y0, x0, y1, x1): all of it, its middle, one corner."""
    height, width = shape
    middle = (height // 4, width // 5, max(height // 4 + 1, 3 * height // 4), max(width // 5 + 1, 4 * width // 5))
    return np.array([(0, 0, height, width), middle, (height - 1, width - 1, height, width)])


def scan(shape, seed=0) -> Volume:
    data = np.random.default_rng(seed).normal(0, 200, (1, *shape)).astype(np.float32)
    return Volume("x", data, (1, 1, 1), (0, 0, 0), np.eye(3), ("CT",))


# --- as the packages and papers say -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_sam_answers_like_its_predictor(checkpoint, shape):
    from segment_anything import SamPredictor

    one, image, boxes = made(SAMTeacher, checkpoint), picture(shape), boxes_in(shape)
    embedding = one.encode(image)
    answers = np.concatenate([one.decode(embedding, box[None], shape) for box in boxes])
    assert np.allclose(answers, one.decode(embedding, boxes, shape), atol=1e-5)  # several at once round otherwise
    assert (answers.shape, answers.dtype) == ((3, *shape), np.float32)
    predictor = SamPredictor(small_network())
    predictor.set_image(image)
    for box, found in zip(boxes, answers, strict=True):
        logits, _, _ = predictor.predict(box=box[[1, 0, 3, 2]], multimask_output=False, return_logits=True)
        ours = np.log(found.astype(np.float64)) - np.log1p(-found.astype(np.float64))
        assert np.allclose(ours, logits[0], atol=1e-4)
        assert np.array_equal(found > 0.5, logits[0] > 0)
    assert 0.02 < (answers > 0.5).mean() < 0.98  # a mask of one value would prove nothing


def medsam_by_hand(network, image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """MedSAM's inference as its authors describe it: squash, stretch, box in 1024ths, sigmoid, enlarge."""
    from skimage import transform

    height, width, _ = image.shape
    squashed = transform.resize(image, (1024, 1024), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    unit = (squashed - squashed.min()) / np.clip(squashed.max() - squashed.min(), a_min=1e-8, a_max=None)
    tensor = torch.tensor(unit).float().permute(2, 0, 1).unsqueeze(0)
    corners = torch.as_tensor(box[[1, 0, 3, 2]] / np.array([width, height, width, height]) * 1024, dtype=torch.float)
    with torch.no_grad():
        sparse, dense = network.prompt_encoder(points=None, boxes=corners[None, None, :], masks=None)
        low, _ = network.mask_decoder(
            image_embeddings=network.image_encoder(tensor),
            image_pe=network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        enlarged = torch.nn.functional.interpolate(low.sigmoid(), (height, width), mode="bilinear", align_corners=False)
    return enlarged.squeeze().numpy()


@pytest.mark.parametrize("shape", [(60, 40)])
def test_medsam_answers_as_its_inference_is_described(checkpoint, shape):
    one, image, boxes = made(MedSAMTeacher, checkpoint), picture(shape) // 2 + 20, boxes_in(shape)
    answers = one.decode(one.encode(image), boxes, shape)
    for box, found in zip(boxes, answers, strict=True):
        expected = medsam_by_hand(small_network(), image, box)
        assert np.allclose(found, expected, atol=1e-5)
        assert np.array_equal(found > 0.5, expected > 0.5)
    assert 0.02 < (answers > 0.5).mean() < 0.98


def test_a_slice_of_one_value_is_black_for_medsam(checkpoint):
    prepared = made(MedSAMTeacher, checkpoint)._prepare(np.full((9, 7, 3), 80, dtype=np.uint8))
    assert (prepared.shape, prepared.dtype) == ((3, SIZE, SIZE), torch.float32)
    assert not prepared.any()


@pytest.mark.parametrize(
    ("model", "parameters"), [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)]
)
def test_the_number_of_parameters(model, parameters):
    found = {row.variant: row for row in SAMTeacher.architectures()}
    assert count(found[model]).parameters == parameters


@needs_thop
def test_paper_1s_figures():
    found = {row.variant: row for row in SAMTeacher.architectures()}
    huge, medical = paper_count(found["vit_h"]), paper_count(MedSAMTeacher.architectures()[0])
    assert (huge.parameters, huge.macs) == (635_636_836, 2_736_624_388_096)
    assert (medical.parameters, medical.macs) == (90_488_420, 371_989_039_104)
    attention = count(MedSAMTeacher.architectures()[0]).macs - medical.macs
    assert attention > 100e9


# --- the teacher ------------------------------------------------------------------------------------------------


def test_each_slice_is_encoded_once_and_only_if_it_has_a_box(checkpoint):
    one = made(SAMTeacher, checkpoint, cache="64")
    case = scan((6, 20, 20))
    prompts = {
        "liver": SliceBoxes([(1, 0, 0, 9, 9), (4, 0, 0, 9, 9)]),
        "spleen": SliceBoxes([(4, 5, 5, 12, 12), (4, 1, 1, 3, 3)]),
    }
    answer = one.predict(case, prompts)
    assert len(one.encoded) == one.notes()["encoded_slices"] == 2
    assert sorted(answer) == ["liver", "spleen"]
    assert [bool(s.any()) for s in answer["spleen"]] == [False, False, False, False, True, False]
    again = one.predict(case, {"lung": SliceBoxes([(4, 0, 0, 5, 5)]), "liver": SliceBoxes([(1, 2, 2, 9, 9)])})
    assert len(one.encoded) == 3  # the lung's window makes another picture; the liver's is still there
    assert one.notes()["encoded_slices"] == 1
    assert sorted(again) == ["liver", "lung"]


def test_what_is_kept_is_not_the_callers(checkpoint):
    one, image = made(SAMTeacher, checkpoint, cache="64"), picture((20, 20))
    first = one.encode(image)
    for _ in range(2):
        again = one.encode(image)
        assert np.array_equal(again, first)
        again *= 0
    assert len(one.encoded) == 1


@pytest.mark.parametrize("options", [{}, {"cache": "0"}])
def test_without_memory_nothing_is_kept(checkpoint, options):
    one = made(SAMTeacher, checkpoint, **options)
    for _ in range(2):
        one.predict(scan((1, 20, 20)), {"liver": SliceBoxes([(0, 0, 0, 9, 9)])})
    assert len(one.encoded) == 2


def test_many_boxes_are_decoded_in_parts(checkpoint, monkeypatch):
    one, image = made(SAMTeacher, checkpoint), picture((30, 30))
    monkeypatch.setattr(sam, "AT_ONCE", 2)
    boxes = np.array([(i, i, i + 8, i + 9) for i in range(3)])
    embedding = one.encode(image)
    together = one.decode(embedding, boxes, (30, 30))
    assert together.shape == (3, 30, 30)
    assert np.allclose(together[[0, 2]], one.decode(embedding, boxes[[0, 2]], (30, 30)), atol=1e-5)
    assert one.decode(embedding, boxes[:0], (30, 30)).shape == (0, 30, 30)


def test_a_colour_picture_stays_as_it_is(checkpoint):
    one = made(SAMTeacher, checkpoint, labels=["polyp"])
    data = np.random.default_rng(0).integers(0, 256, (3, 1, 30, 40)).astype(np.float32)
    case = Volume("x", data, (1, 1, 1), (0, 0, 0), np.eye(3), ("R", "G", "B"))
    one.predict(case, {"polyp": SliceBoxes([(0, 3, 3, 20, 20)])})
    assert np.array_equal(one.encoded[0], np.moveaxis(data[:, 0], 0, -1))


def test_another_kind_of_prompt(checkpoint):
    with pytest.raises(NnkdError, match="boxes are expected"):
        made(SAMTeacher, checkpoint).predict(scan((1, 9, 9)), {"liver": TextPrompt("liver")})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cache": "-1"}, "cache"), ({"model": "vit_x"}, "model"), ({"windows": "no.json"}, "no.json")],
)
def test_wrong_options(checkpoint, options, message):
    with pytest.raises(SettingError, match=message):
        made(SAMTeacher, checkpoint, **options)


def test_without_segment_anything(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segment_anything", None)
    with pytest.raises(BrokenPluginError, match=r'needs? the package segment-anything.*pip install "nnkd\[sam\]"'):
        build("vit_b")


# --- weights ----------------------------------------------------------------------------------------------------


def test_weights_are_recorded(checkpoint):
    one = made(SAMTeacher, checkpoint, licence="Apache-2.0")
    assert one.weights() == ({"name": "small.pth", "sha256": sha256(checkpoint), "licence": "Apache-2.0"},)


@pytest.mark.parametrize("form", ["flat", "model", "data parallel"])
def test_checkpoints_of_all_forms(tmp_path, form):
    state = small_network().state_dict()
    content = {
        "flat": state,
        "model": {"model": state, "epoch": 3, "optimizer": {"state": {}}},
        "data parallel": {"model": {f"module.{name}": value for name, value in state.items()}},
    }[form]
    torch.save(content, tmp_path / "own.pth")
    network = made(MedSAMTeacher, tmp_path / "own.pth").network
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_metas_own_file_is_not_medsams(checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoints, "sha256", lambda _: find("sam_vit_b").sha256)
    says = "'small.pth' is a ViT-B SAM, not MedSAM vit_b. .*use the teacher sam with model=vit_b"
    with pytest.raises(WeightsError, match=says):
        made(MedSAMTeacher, checkpoint)
    assert made(SAMTeacher, checkpoint).weights()[0]["licence"] == "Apache-2.0"
    assert made(SAMTeacher, checkpoint, licence="MIT").weights()[0]["licence"] == "MIT"


def test_medsams_own_file_is_not_sams(checkpoint, monkeypatch):
    monkeypatch.setattr(checkpoints, "sha256", lambda _: find("medsam").sha256)
    with pytest.raises(WeightsError, match=r"'small.pth' is MedSAM, not SAM vit_b. .*use the teacher medsam"):
        made(SAMTeacher, checkpoint)
    assert made(MedSAMTeacher, checkpoint).weights()[0]["licence"] == "Apache-2.0"


def test_weights_come_from_the_store(checkpoint, tmp_path, monkeypatch):
    """A file in the store that is not the published one is never used in silence."""
    monkeypatch.setenv("nnKD_cache", str(tmp_path))
    stored = tmp_path / "weights" / find("medsam").file
    stored.parent.mkdir()
    stored.write_bytes(checkpoint.read_bytes())
    with pytest.raises(WeightsError, match=r"'medsam_vit_b.pth' among the stored weights has \d+ bytes, but 375049145"):
        checkpoints.load_weights(small_network(), None, "medsam", "MedSAM", "")
    table = tuple(replace(c, size=None) for c in known())
    monkeypatch.setattr(store, "known", lambda: table)
    with pytest.raises(WeightsError, match=r"not what is published under this name.*nnKD_weights fetch medsam"):
        checkpoints.load_weights(small_network(), None, "medsam", "MedSAM", "")
    monkeypatch.setattr(checkpoints, "sha256", lambda _: find("medsam").sha256)
    used, _ = checkpoints.load_weights(small_network(), None, "medsam", "MedSAM", "")
    assert (used[0]["name"], used[0]["licence"]) == ("medsam_vit_b.pth", "Apache-2.0")


def test_variants_have_their_own_published_files(tmp_path, monkeypatch):
    monkeypatch.setenv("nnKD_cache", str(tmp_path))
    monkeypatch.setattr(SAMTeacher, "_build", lambda self, model: small_network())
    context = TeacherContext(("liver",))
    for model in ("vit_b", "vit_h"):
        with pytest.raises(WeightsError, match=f"nnKD_weights fetch sam_{model}, or"):
            SAMTeacher(context, model=model)
    with pytest.raises(WeightsError, match="nnKD_weights fetch medsam, or"):
        MedSAMTeacher(context)


def test_weights_of_somebody_have_no_licence(checkpoint):
    assert [made(base, checkpoint).weights()[0]["licence"] for base in (SAMTeacher, MedSAMTeacher)] == ["", ""]


def test_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("nnKD_cache", str(tmp_path))
    with pytest.raises(WeightsError, match=r"medsam teacher has no weights.*weights=FILE to a checkpoint of MedSAM"):
        checkpoints.load_weights(small_network(), None, "medsam", "MedSAM", "")


@pytest.mark.parametrize(
    ("model", "tensor", "like"),
    [
        ("vit_h", {"image_encoder.patch_embed.proj.weight": 1280}, "SAM vit_h: use the teacher sam with model=vit_h."),
        ("vit_b", {"image_encoder.patch_embed.proj.weight": 768}, "SAM vit_b: .* or the teacher medsam"),
        ("lite", {"image_encoder.patch_embed.seq.0.c.weight": 32}, "LiteMedSAM: use the teacher litemedsam"),
        (
            "hiera_s",
            {"image_encoder.trunk.patch_embed.proj.weight": 96}
            | {f"image_encoder.trunk.blocks.{i}.norm1.weight": 1 for i in range(16)},
            "SAM 2.0 hiera_s: use the teacher sam2 with model=hiera_s and version=2.0",
        ),
        ("other", {"encoder.weight": 3}, "Correct the option weights"),
    ],
)
def test_a_checkpoint_of_another_model_is_recognised(tmp_path, model, tensor, like):
    file = tmp_path / f"{model}.pth"
    torch.save({f"module.{name}": torch.zeros(size, 1) for name, size in tensor.items()}, file)
    with pytest.raises(WeightsError, match=rf"'{model}.pth' is no checkpoint of SAM vit_l: .*{like}"):
        checkpoints.load_weights(small_network(), file, "sam", "SAM vit_l", "")


def test_sizes_are_told_by_their_real_tensors():
    for model in ("vit_b", "vit_l", "vit_h"):
        with torch.device("meta"):
            state = build(model).state_dict()
        assert checkpoints.looks_like(state).startswith(f"SAM {model}: ")
