"""nnkd_sam.sam2: answers equal those of the package's own predictor; real architectures, with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extras import needs

from nnkd.errors import BrokenPluginError, SettingError, WeightsError
from nnkd.networks.costs import count
from nnkd.networks.papers import paper_count
from nnkd.plugin.options import parse_options
from nnkd.types import SliceBoxes, TeacherContext, Volume

pytestmark = needs("sam2")
needs_thop = needs("profile")

from nnkd_sam import checkpoints, sam2  # noqa: E402
from nnkd_sam.medsam2 import MedSAM2Teacher  # noqa: E402
from nnkd_sam.sam2 import SAM2Teacher, build, fold, unfold  # noqa: E402

SHAPE = (60, 40)
BOXES = np.array([(0, 0, 60, 40), (10, 5, 40, 30), (59, 39, 60, 40)])


SMALL = (
    "model.image_encoder.trunk.embed_dim=16",
    "model.image_encoder.trunk.stages=[1,1,1,1]",
    "model.image_encoder.trunk.global_att_blocks=[]",
    "model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
)


def small_network() -> torch.nn.Module:
    """sam2's network with a tiny image encoder; all else is the real one."""
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    network = build_sam2(sam2.CONFIGURATIONS["2.0"].format("hiera_t"), device="cpu", hydra_overrides_extra=[*SMALL])
    torch.nn.init.normal_(network.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias)  # no empty masks
    return network


@pytest.fixture(scope="module")
def networks():
    """SAM 2's and 2.1's smallest, built once."""
    made = {}
    for version in ("2.0", "2.1"):
        torch.manual_seed(0)
        made[version] = build("hiera_t", version)
    return made


@pytest.fixture(scope="module")
def checkpoint(networks, tmp_path_factory):
    """Their weights on disk, by version."""
    folder = tmp_path_factory.mktemp("sam2")
    for version, network in networks.items():
        torch.save({"model": network.state_dict()}, folder / f"{version}.pt")
    return {version: folder / f"{version}.pt" for version in networks}


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def made(base, file, labels=("liver", "spleen"), **options):
    return base(TeacherContext(tuple(labels)), **parse_options(base, {"weights": str(file), **options}, base.name))


def predictor_of(network, image):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(network)
    predictor.set_image(image)
    return predictor


def made_small(base, tmp_path, version):
    """A teacher with the small network, loaded from a file of the published layout; and the network."""
    network = small_network()
    torch.save({"model": network.state_dict()}, tmp_path / "own.pt")

    class Small(base):
        def _build(self, *wanted):
            assert wanted == ("hiera_t", version)
            return small_network()

    return Small(TeacherContext(("liver",)), weights=tmp_path / "own.pt"), network


def test_sam2_answers_like_its_predictor(tmp_path, image):
    one, network = made_small(SAM2Teacher, tmp_path, "2.1")
    embedding = one.encode(image)
    assert (embedding.shape, embedding.dtype) == ((1024, 64, 64), np.float32)
    answers = np.concatenate([one.decode(embedding, box[None], SHAPE) for box in BOXES])
    assert np.allclose(answers, one.decode(embedding, BOXES, SHAPE), atol=1e-5)  # several at once round otherwise
    assert (answers.shape, answers.dtype) == ((3, *SHAPE), np.float32)
    predictor = predictor_of(network, image)
    for box, found in zip(BOXES, answers, strict=True):
        logits, _, _ = predictor.predict(box=box[[1, 0, 3, 2]], multimask_output=False, return_logits=True)
        assert np.allclose(found, 1 / (1 + np.exp(-logits[0].astype(np.float64))), atol=1e-5)
        assert np.array_equal(found > 0.5, logits[0] > 0)
    assert 0.02 < (answers > 0.5).mean() < 0.98


def test_medsam2_enlarges_probabilities(tmp_path, image):
    one, network = made_small(MedSAM2Teacher, tmp_path, "2.0")
    embedding = one.encode(image)
    predictor = predictor_of(network, image)
    for box in BOXES:
        (found,) = one.decode(embedding, box[None], SHAPE)
        _, _, low = predictor.predict(box=box[[1, 0, 3, 2]], multimask_output=False, return_logits=True)
        small = torch.from_numpy(low)[None].sigmoid()
        expected = torch.nn.functional.interpolate(small, SHAPE, mode="bilinear", align_corners=False)[0, 0].numpy()
        assert np.allclose(found, expected, atol=1e-4)
        assert np.array_equal(found > 0.5, expected > 0.5)


def test_each_slice_is_encoded_once(networks, checkpoint, monkeypatch):
    one, calls = made(SAM2Teacher, checkpoint["2.1"], cache="64"), []
    maps = [torch.rand(1, c, 64 * by, 64 * by) for c, by in zip(sam2.CHANNELS, sam2.FOLDS, strict=True)]
    monkeypatch.setattr(sam2, "features", lambda network, images: calls.append(len(images)) or maps)
    data = np.random.default_rng(0).normal(0, 200, (1, 5, 20, 20)).astype(np.float32)
    case = Volume("x", data, (1, 1, 1), (0, 0, 0), np.eye(3), ("CT",))
    prompts = {"liver": SliceBoxes([(1, 0, 0, 9, 9)]), "spleen": SliceBoxes([(1, 5, 5, 12, 12), (3, 1, 1, 3, 3)])}
    answer = one.predict(case, prompts)
    assert calls == [1, 1]
    assert sorted(answer) == ["liver", "spleen"]
    assert not answer["liver"][[0, 2, 3, 4]].any()
    one.predict(case, {"liver": SliceBoxes([(3, 2, 2, 9, 9)])})
    assert calls == [1, 1]  # kept from the spleen's
    assert one.notes()["encoded_slices"] == 0


def test_folding_loses_nothing():
    maps = [torch.rand(2, c, 64 * by, 64 * by) for c, by in zip(sam2.CHANNELS, sam2.FOLDS, strict=True)]
    folded = fold(maps)
    assert folded.shape == (2, 1024, 64, 64)
    assert all(torch.equal(before, after) for before, after in zip(maps, unfold(folded), strict=True))


# --- architectures and weights ----------------------------------------------------------------------------------


def test_the_number_of_parameters():
    found = {row.variant: count(row).parameters for row in SAM2Teacher.architectures()[:2]}
    assert found == {"hiera_t": 38_945_986, "hiera_s": 46_043_842}


@needs_thop
def test_paper_1s_medsam2():
    found = paper_count(MedSAM2Teacher.architectures()[0])
    assert (found.parameters, found.macs) == (31_421_733, 106_721_542_400)


@needs_thop
def test_paper_1s_sam2_and_its_typo():
    row = SAM2Teacher.architectures()[-1]
    found = paper_count(row)
    assert (row.variant, found.parameters, found.macs) == ("hiera_l", 216_900_453, 813_980_877_056)
    assert "typo" in row.paper.remark


@pytest.mark.parametrize("form", ["model", "flat", "MedSAM2's", "data parallel"])
def test_checkpoints_of_all_forms(tmp_path, networks, form):
    state = networks["2.0"].state_dict()
    content = {
        "model": {"model": state},
        "flat": state,
        "MedSAM2's": {"model": {f"sam2_model.{name}": value for name, value in state.items()}, "epoch": 1},
        "data parallel": {"model": {f"module.sam2_model.{name}": value for name, value in state.items()}},
    }[form]
    torch.save(content, tmp_path / "own.pt")
    loaded = made(MedSAM2Teacher, tmp_path / "own.pt").network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("prefix", ["sam2_model.", "module.sam2_model."])
def test_medsam2s_file_is_not_sam2s(tmp_path, networks, prefix):
    state = networks["2.0"].state_dict()
    torch.save({"model": {f"{prefix}{name}": value for name, value in state.items()}}, tmp_path / "medical.pt")
    with pytest.raises(WeightsError, match=r"'medical\.pt' is MedSAM2, not SAM 2 .*Use the teacher medsam2"):
        made(SAM2Teacher, tmp_path / "medical.pt", version="2.0")
    assert "weights" not in made(MedSAM2Teacher, tmp_path / "medical.pt").notes()


def test_sam2s_file_is_doubtful_as_medsam2s(checkpoint, caplog):
    one = made(MedSAM2Teacher, checkpoint["2.0"])
    assert "they may be SAM 2.0's" in one.notes()["weights"]
    assert "2.0.pt: its tensors are not called sam2_model." in caplog.text
    assert "weights" not in made(SAM2Teacher, checkpoint["2.0"], version="2.0").notes()


def test_the_other_version_is_recognised(checkpoint):
    with pytest.raises(WeightsError, match=r"no checkpoint of SAM 2\.1 hiera_t.*SAM 2\.0 hiera_t: use .*version=2\.0"):
        made(SAM2Teacher, checkpoint["2.0"])
    with pytest.raises(WeightsError, match=r"no checkpoint of MedSAM2.*SAM 2\.1 hiera_t"):
        made(MedSAM2Teacher, checkpoint["2.1"])
    with pytest.raises(WeightsError, match=r"SAM 2\.1 hiera_s: .*SAM 2\.1 hiera_t: use the teacher sam2 with model=h"):
        made(SAM2Teacher, checkpoint["2.1"], model="hiera_s")


def test_sizes_are_told_by_their_real_tensors():
    assert checkpoints.looks_like(build("hiera_s", "2.1").state_dict()).startswith("SAM 2.1 hiera_s: ")


def test_wrong_options(checkpoint):
    for options, message in (
        ({"model": "hiera_x"}, "model"),
        ({"version": "3"}, "version"),
        ({"cache": "-1"}, "cache"),
    ):
        with pytest.raises(SettingError, match=message):
            made(SAM2Teacher, checkpoint["2.1"], **options)


def test_without_sam2(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sam2.build_sam", None)
    with pytest.raises(BrokenPluginError, match=r'need the package sam2.*pip install "nnkd\[sam2\]"'):
        build("hiera_t")
