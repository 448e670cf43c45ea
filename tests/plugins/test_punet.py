"""Tests of nnkd_unet.punet_trainer, its network and its loss."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnkd_unet.punet_loss import EvidenceLoss, Terms, divergence
from nnkd_unet.punet_network import BOUND, TILE, Gaussian, PUNet, Reconstruction, noise
from nnkd_unet.punet_trainer import PUNetOptions, nnUNetTrainerPUNet
from nnkd_unet.unet import Encoder, padded
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from planned import configuration, make_plans, preprocess, preprocessed_folder
from torch.distributions import Independent, Normal, kl_divergence
from toy import toy_dataset, toy_teacher

from nnkd import paths
from nnkd.cli import train
from nnkd.data.plans import read_plans
from nnkd.data.recipes import Choice, Recipe, write_recipe
from nnkd.errors import RecipeError, SettingError, WeightsError
from nnkd.votes.bits import NO_VOTE
from nnkd.votes.folder import VotesFolder

pytestmark = pytest.mark.heavy

SHORT = {"epochs": 1, "iterations": 2, "val_iterations": 1}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def network_of(inputs=1, outputs=2, *, widths=(4, 6, 8), spread=1.0, **keywords) -> PUNet:
    """A small one whose samples differ and whose probabilities are no zeros."""
    torch.manual_seed(0)
    network = PUNet(inputs, outputs, widths=widths, **keywords).eval()
    with torch.no_grad():
        for part in (network.prior, network.posterior):
            part.latent.weight.normal_(std=spread)
        last = network.decoder.seg_layers[0]
        last.weight.normal_()
        last.bias.zero_()
    return network


def naive(network: PUNet, x: torch.Tensor) -> torch.Tensor:
    """(N, B, heads, *S) probabilities: the whole network for every sample, the latent written beside each voxel."""
    found = []
    for one in torch.from_numpy(noise(network.number, network.latent)):
        padded_x, window = padded(x, network.levels)
        prior = network.prior(padded_x)
        latents = prior.mean + prior.log_sigma.exp() * one
        features = network.decoder.features(network.encoder(padded_x))[(..., *window)]
        beside = latents[(..., *[None] * (x.ndim - 2))].expand(-1, -1, *x.shape[2:])
        combined = torch.cat((features, beside), 1)
        for layer in network.combine:
            combined = torch.relu(layer(combined))
        raw = network.decoder.seg_layers[0](combined)
        if network.one_logit:
            raw = torch.cat((torch.zeros_like(raw), raw), 1)
        found.append(torch.sigmoid(raw) if network.regions else raw.softmax(1))
    return torch.stack(found)


def probabilities(network: PUNet, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        answer = network(x)
    return torch.sigmoid(answer) if network.regions else answer.softmax(1)


# --- the network ------------------------------------------------------------------------------------------------


def test_paper_1s_number_of_parameters():
    assert sum(p.numel() for p in PUNet(1, 2).parameters()) == 4_998_393


@pytest.mark.parametrize("size", [(61, 43), (8, 8), (7, 100), (1, 3)])
@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
def test_any_image_size(size, norm):
    network = PUNet(3, 4, norm=norm, widths=(4, 6, 8))
    x, masks = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    assert network(x, masks).logits.shape == (2, 4, *size)
    assert network.eval()(x).shape == (2, 4, *size)
    assert next(network.samples(x)).shape == (2, 4, *size)


KINDS = {
    "one label": {},
    "several labels and channels": {"inputs": 2, "outputs": 4},
    "regions": {"outputs": 3, "regions": True},
    "one region": {"outputs": 1, "regions": True},
    "3D": {"dim": 3, "outputs": 3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_paths_equal_the_naive_loop(kind, monkeypatch):
    monkeypatch.setitem(TILE, "cpu", 100)  # several tiles
    network = network_of(**KINDS[kind])
    x = torch.randn(2, KINDS[kind].get("inputs", 1), *([13, 18, 11][: KINDS[kind].get("dim", 2)]))
    with torch.no_grad():
        expected = naive(network, x)
        samples = torch.stack(list(network.samples(x)))
    assert len(samples) == network.number == 10
    assert float(expected.std(0).max()) > 0.01
    torch.testing.assert_close(samples, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(probabilities(network, x), expected.mean(0), atol=1e-6 + 2e-6, rtol=0)


def test_answers_are_clamped_and_finite():
    network = network_of()
    with torch.no_grad():
        network.decoder.seg_layers[0].bias.fill_(-200)
        answer = network(torch.rand(1, 1, 8, 8))
    assert float(answer.min()) == pytest.approx(math.log(1e-6), abs=1e-4)


def test_answers_are_computed_in_float32_under_autocast():
    network, x = network_of(), torch.randn(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert network(x).dtype == torch.float32
        assert {sample.dtype for sample in network.samples(x)} == {torch.float32}
        found = network(x, torch.zeros(1, 1, 16, 16))
    assert {t.dtype for t in (*found.posterior, *found.prior)} == {torch.float32}


def test_noise_is_the_same_in_every_call_and_balanced():
    np.testing.assert_array_equal(noise(10, 6), noise(10, 6))
    np.testing.assert_array_equal(noise(3, 6), noise(10, 6)[:3])
    np.testing.assert_allclose(noise(10, 6).mean(0), 0, atol=1e-7)
    assert 0.8 < noise(1000, 6).std() < 1.2


def test_a_sample_has_the_same_noise_in_every_window_and_batch():
    network = network_of(spread=0.0)  # the prior is the same for all images
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        network.encoder.blocks[0][0].weight.zero_()  # and so are the features, but at the border
        together = torch.stack(list(network.samples(x)))
        alone = torch.stack(list(network.samples(x[2:])))
    torch.testing.assert_close(together[:, 0], together[:, 1])
    torch.testing.assert_close(together[:, 2:], alone)
    assert float(together.std(0).max()) > 0.01


def test_global_randomness_neither_matters_nor_moves():
    network, x = network_of(), torch.randn(1, 1, 9, 9)
    state = torch.get_rng_state()
    first = probabilities(network, x)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(probabilities(network, x), first)


def test_threads_share_a_network():
    network = network_of(spread=3.0)
    images = [torch.randn(1, 1, 32 + 8 * i, 24) * (i + 1) for i in range(4)]
    alone = [probabilities(network, x) for x in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, expected in zip(pool.map(lambda x: probabilities(network, x), images), alone, strict=True):
                assert torch.equal(found, expected)
    assert not any(isinstance(v, torch.Tensor) for v in vars(network).values())


def test_log_sigma_is_bounded():
    network = network_of(spread=1e4)
    found = network(torch.randn(1, 1, 8, 8) * 100, torch.ones(1, 1, 8, 8))
    for gaussian in (found.prior, found.posterior):
        assert float(gaussian.log_sigma.detach().abs().max()) <= BOUND
    assert torch.isfinite(divergence(found.posterior, found.prior)).all()


def test_gradients_reach_all_three_networks():
    network = PUNet(2, 4, widths=(4, 6, 8)).train()
    target = (torch.rand(2, 3, 16, 16) > 0.5).float()
    EvidenceLoss(regions=False)(network(torch.randn(2, 2, 16, 16), target), target).loss.backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_posterior_sees_image_and_mask_as_one_image():
    network, x, masks = network_of(2, 4), torch.randn(1, 2, 16, 16), torch.rand(1, 3, 16, 16)
    ours, whole = network.posterior, Encoder(5, (4, 6, 8), 2, "none")
    first = {"blocks.0.0.weight": torch.cat((ours.encoder.blocks[0][0].weight, ours.seg_layers[0].weight), 1)}
    whole.load_state_dict({**ours.encoder.state_dict(), **first})
    pooled = whole(torch.cat((x, masks), 1))[-1].mean((2, 3), keepdim=True)
    torch.testing.assert_close(ours(x, masks).mean, ours.latent(pooled)[:, : network.latent, 0, 0])
    assert not torch.equal(ours(x, masks).mean, ours(x, 1 - masks).mean)


def test_nnunets_pretrained_weights_with_another_number_of_labels(tmp_path):
    before, after = network_of(1, 2), PUNet(1, 5, widths=(4, 6, 8))
    torch.save({"network_weights": before.state_dict()}, tmp_path / "before.pth")
    load_pretrained_weights(after, tmp_path / "before.pth")
    state, kept = after.state_dict(), before.state_dict()
    assert [k for k in state if ".seg_layers." in k and state[k].shape == kept[k].shape] == []
    assert all(torch.equal(state[k], kept[k]) for k in state if ".seg_layers." not in k)
    assert after.decoder.deep_supervision is False


def test_a_checkpoint_of_another_latent_size():
    with pytest.raises(WeightsError, match=r"latent has 4 dimensions, but the recipe says 6. .* --set latent=4"):
        network_of().load_state_dict(network_of(latent=4).state_dict())


def test_a_compiled_network_trains_validates_and_predicts():
    """nnU-Net compiles on CUDA, and predicts with the compiled network in inference mode."""
    network = network_of(outputs=3).train()
    compiled = torch.compile(network, backend="eager")
    image, mask = torch.rand(1, 1, 16, 16), torch.ones(1, 2, 16, 16)
    compiled(image, mask).logits.sum().backward()
    compiled.eval()
    with torch.no_grad():
        expected = network.answer(image)
        torch.testing.assert_close(compiled(image), expected)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(image), expected)


def test_an_exported_graph_equals_the_eager_one():
    network, x = network_of(), torch.rand(1, 1, 9, 10)
    exported = torch.export.export(network, (x,))
    torch.testing.assert_close(exported.module()(x), network(x))


# --- the loss ---------------------------------------------------------------------------------------------------


def gaussian(batch=3, latent=4) -> Gaussian:
    return Gaussian(torch.randn(batch, latent), torch.randn(batch, latent))


def test_the_divergence_is_torchs():
    torch.manual_seed(0)
    q, p = gaussian(), gaussian()
    ours = divergence(q, p)
    one = [Normal(g.mean, g.log_sigma.exp()) for g in (q, p)]
    torch.testing.assert_close(ours, kl_divergence(*one))
    torch.testing.assert_close(ours.sum(1), kl_divergence(*[Independent(n, 1) for n in one]))


def terms_of(logits, target, regions=False, norms=0.0, **keywords) -> Terms:
    same = Gaussian(torch.zeros(len(logits), 2), torch.zeros(len(logits), 2))
    shifted = Gaussian(torch.tensor([[1.0, 0.0]]).repeat(len(logits), 1), same.log_sigma)
    found = Reconstruction(logits, shifted, same, torch.tensor(norms))
    return EvidenceLoss(regions, **keywords)(found, target)


def test_the_loss_by_hand():
    logits = torch.zeros(2, 2, 1, 3)
    logits[:, 1] = torch.tensor([2.0, -1.0, 0.0])
    target = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])[:, None, None]
    nats = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log(2)]
    terms = terms_of(logits, target, norms=7.0, beta=3.0, l2=0.1)
    assert float(terms.reconstruction) == pytest.approx(sum(nats))  # the sum over voxels, the mean over images
    assert terms.kl.tolist() == pytest.approx([0.5, 0.0])
    assert float(terms.loss) == pytest.approx(sum(nats) + 3 * 0.5 + 0.1 * 7, rel=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_labels_without_vote_stay_out(regions):
    logits = torch.randn(1, 2 if regions else 3, 4, 4)
    target = torch.zeros(1, 2, 4, 4)
    target[:, 1] = NO_VOTE
    changed = logits.clone()
    changed[:, -1] += 5
    found, other = terms_of(logits, target, regions), terms_of(changed, target, regions)
    if regions:
        torch.testing.assert_close(found.reconstruction, other.reconstruction)
    else:  # the unanswered label counts as "not label 1"
        log_p = torch.log_softmax(logits, 1)
        expected = -torch.logsumexp(log_p[:, [0, 2]], 1).sum()
        torch.testing.assert_close(found.reconstruction, expected)
    assert float(terms_of(logits, torch.full_like(target, NO_VOTE), regions).reconstruction) == 0


def test_regions_are_summed():
    target = (torch.rand(2, 3, 4, 4) > 0.5).float()
    logits = torch.randn(2, 3, 4, 4)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / 2
    torch.testing.assert_close(terms_of(logits, target, True).reconstruction, expected)


def test_voxels_can_be_weighted():
    logits, mask = torch.randn(1, 2, 4, 4), torch.ones(1, 1, 4, 4)
    whole = terms_of(logits, mask).reconstruction
    halved = terms_of(logits, torch.cat((mask, mask / 2), 1), weighted=True).reconstruction
    torch.testing.assert_close(halved, whole / 2)


def test_the_loss_is_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = terms_of(torch.randn(1, 2, 4, 4).bfloat16(), torch.zeros(1, 1, 4, 4))
    assert {t.dtype for t in terms} == {torch.float32}


# --- what it learns ---------------------------------------------------------------------------------------------


def test_samples_differ_where_teachers_do():
    """Two teachers: one marks the square's core, the other its rim as well."""
    torch.manual_seed(0)
    core, square = torch.zeros(8, 1, 16, 16), torch.zeros(8, 1, 16, 16)
    core[:, :, 5:11, 5:11], square[:, :, 2:14, 2:14] = 1, 1
    network = PUNet(1, 2, widths=(8, 16), latent=2, number=20)
    optimizer, loss = torch.optim.Adam(network.parameters(), 3e-3), EvidenceLoss(False)
    for _ in range(300):
        drawn = torch.where(torch.rand(8, 1, 1, 1) < 0.5, core, square)
        terms = loss(network(core + square + 0.1 * torch.randn_like(core), drawn), drawn)
        optimizer.zero_grad()
        (terms.loss / 256).backward()
        optimizer.step()
    with torch.no_grad():
        samples = torch.stack(list(network.eval().samples((core + square)[:1])))[:, 0, 1]
    spread, mean = samples.std(0), samples.mean(0)
    inside, rim = core[0, 0] > 0, (square - core)[0, 0] > 0
    assert float(terms.kl.detach().sum()) > math.log(2)  # what it takes to tell two teachers apart
    assert float(spread[rim].mean()) > 0.3
    assert float(spread[~rim].mean()) < 0.1
    assert float(mean[inside].mean()) > 0.9
    assert 0.25 < float(mean[rim].mean()) < 0.75


# --- the trainer ------------------------------------------------------------------------------------------------

CONFIGURATIONS = {
    "2d": configuration("2d", (16, 16), (1.0, 1.0)),
    "3d_fullres": configuration("3d_fullres", (8, 16, 16), (2.0, 1.0, 1.0)),
}


@pytest.fixture
def small(monkeypatch):
    """Networks of narrower widths."""
    monkeypatch.setattr("nnkd_unet.punet_trainer.PUNet", lambda *a, **k: PUNet(*a, **{**k, "widths": (4, 6)}))


@pytest.fixture
def folders(nnunet_folders, monkeypatch, small):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return nnunet_folders


def make_voted(folders, name="2d", teachers=2, **keywords):
    dataset = toy_dataset(folders / "nnUNet_raw" / "Dataset701_Toy", **{"labelled": 4, **keywords})
    for index in range(teachers):
        toy_teacher(dataset, f"t{index}", shift=index, seed=index)
    preprocess(dataset, make_plans(dataset, {name: CONFIGURATIONS[name]}), name)
    splits = [{"train": ["toy_000", "toy_001", "toy_002"], "val": ["toy_003"]}]
    (preprocessed_folder(dataset) / "splits_final.json").write_text(json.dumps(splits))
    return dataset


def recipe_of(*teachers, regions=False, aggregator="random_teacher", **options) -> Recipe:
    return Recipe("nnUNetPlans", teachers, Choice(aggregator), options={**SHORT, **options}, has_regions=regions)


def trainer_of(dataset, recipe: Recipe | None, name="2d") -> nnUNetTrainerPUNet:
    folder = preprocessed_folder(dataset)
    plans_name = write_recipe(folder, recipe) if recipe else "nnUNetPlans"
    plans = {**read_plans(folder, plans_name), "continue_training": False}
    return nnUNetTrainerPUNet(plans, name, 0, dict(dataset.spec.json), torch.device("cpu"))


def short(trainer):
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    return trainer


def curves(trainer) -> dict[str, list]:
    return {key: trainer.logger.get_value(key, None) for key in ("reconstruction", "kl", "kl_per_dimension")}


@pytest.mark.parametrize("name", ["2d", "3d_fullres"])
def test_a_whole_training(folders, name):
    trainer = trainer_of(make_voted(folders, name), recipe_of("t0", "t1", manual="ignore", latent=3), name)
    trainer.run_training()
    found = curves(trainer)
    assert {len(values) for values in found.values()} == {1}
    assert len(found["kl_per_dimension"][0]) == 3
    assert found["kl"][0] == pytest.approx(sum(found["kl_per_dimension"][0]))
    assert trainer.logger.get_value("train_losses", 0) >= found["reconstruction"][0]
    if name == "2d":
        trainer.perform_actual_validation()
        assert len(list(paths.room("nnUNet_results").rglob("summary.json"))) == 1


def test_the_posterior_is_given_the_drawn_teachers_masks(folders, monkeypatch):
    trainer = trainer_of(make_voted(folders), recipe_of("t0", "t1", manual="ignore"))
    trainer.initialize()
    seen = []
    trainer.network.posterior.register_forward_hook(lambda _, inputs, __: seen.append(inputs[1]))
    target = (torch.rand(2, 2, 16, 16) > 0.5).float()
    target[1, 1] = NO_VOTE
    trainer.train_step({"data": torch.randn(2, 1, 16, 16), "target": target, "keys": ["toy_000", "toy_001"]})
    torch.testing.assert_close(seen[0], target.clamp(min=0))


def test_it_continues_with_its_curves(folders, tmp_path):
    dataset, recipe = make_voted(folders), recipe_of("t0", "t1", epochs=2, save_every=1)
    first = trainer_of(dataset, recipe)
    first.num_epochs = 1
    first.run_training()
    file = str(tmp_path / "checkpoint.pth")
    first.current_epoch = 0  # nnU-Net counts up before it saves
    first.save_checkpoint(file)
    second = trainer_of(dataset, recipe)
    second.load_checkpoint(file)
    assert curves(second) == curves(first)
    second.run_training()
    found = curves(second)
    assert {len(values) for values in found.values()} == {2}
    assert found["kl"][0] == curves(first)["kl"][0]


@pytest.mark.parametrize("regions", [False, True])
def test_nnunets_supervision_without_recipe(folders, regions):
    more = {"regions_class_order": [1, 2]} if regions else {}
    labels = {"background": 0, "both": [1, 2], "spleen": 2} if regions else None
    dataset = make_voted(folders, teachers=0, labels=labels, **more)
    trainer = short(trainer_of(dataset, None))
    trainer.run_training()
    assert trainer.network.regions is regions
    saved = json.loads((next(folders.glob("nnUNet_results/*/*/plans.json"))).read_text())
    again = nnUNetTrainerPUNet.build_network_architecture(
        trainer.plans_manager.__class__(saved), trainer.configuration_manager, 1, 2 if regions else 3, False
    )
    again.load_state_dict(trainer.network.state_dict())


def test_label_maps_become_votes(folders):
    labels = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    trainer = trainer_of(make_voted(folders, teachers=0, labels=labels), None)
    found = trainer._of_label_maps(torch.tensor([[[[0, 1, 2, 3]]]], dtype=torch.int16))
    assert found[0, :, 0].tolist() == [[0, 1, 0, -1], [0, 0, 1, -1]]


def test_regions_become_votes(folders):
    labels = {"background": 0, "both": [1, 2], "spleen": 2, "ignore": 3}
    trainer = trainer_of(make_voted(folders, teachers=0, labels=labels, regions_class_order=[1, 2]), None)
    target = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.bool)[None, :, None]
    assert trainer._of_label_maps(target)[0, :, 0].tolist() == [[1, 1, -1], [0, 1, -1]]


def test_training_in_bfloat16_is_stable_with_full_widths(nnunet_folders, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = trainer_of(make_voted(nnunet_folders), recipe_of("t0", "t1", precision="bfloat16", lr=1e-3))
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    batch = next(loader)
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0]


def test_a_dead_latent_is_warned_of(folders, monkeypatch):
    trainer = trainer_of(make_voted(folders), recipe_of("t0", "t1", latent=2))
    said = []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *a, **_: said.append(" ".join(map(str, a))))
    alive, dead = np.array([0.5, 0.0], np.float32), np.array([0.009, 0.0], np.float32)
    for epoch in range(31):
        step = {"loss": np.float32(1), "reconstruction": np.array(1, np.float32)}
        trainer.current_epoch = epoch
        trainer.on_train_epoch_end([{**step, "kl_per_dimension": alive if epoch == 10 else dead}])
        warned = [line for line in said if "latent is dead" in line]
        assert len(warned) == (epoch >= 9) + (epoch >= 20) + (epoch >= 30)


def test_other_aggregators_are_let_through_with_a_word(folders):
    trainer = trainer_of(make_voted(folders), recipe_of("t0", "t1", aggregator="mean"))
    trainer.on_train_start()
    log = "".join(p.read_text() for p in folders.glob("nnUNet_results/*/*/fold_0/*.txt"))
    assert "aggregator mean gives one target per case" in log


def test_stock_nnunet_finds_it(monkeypatch):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    monkeypatch.setenv("nnUNet_extTrainer", paths.trainer_path())
    assert recursive_find_trainer_class_by_name("nnUNetTrainerPUNet") is nnUNetTrainerPUNet


# --- recipes and bad input --------------------------------------------------------------------------------------


def call(*arguments) -> int:
    return train.main(["701", "2d", "0", "-tr", "nnUNetTrainerPUNet", "-device", "cpu", "--dry_run", *arguments])


def test_a_random_teacher_is_its_usual_aggregator(folders):
    dataset = make_voted(folders, teachers=3)
    assert call("-n", "usual") == 0
    assert call("-n", "chosen", "-a", "mean") == 0
    folder = preprocessed_folder(dataset)
    assert Recipe.of_plans(read_plans(folder, "nnUNetPlans_usual")).aggregator == Choice("random_teacher")
    assert Recipe.of_plans(read_plans(folder, "nnUNetPlans_chosen")).aggregator == Choice("mean")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("-t", "t0"), "needs two or more that answer, but the recipe has t0. Name more with -t"),
        (("--set", "samples=0"), "'nnUNetTrainerPUNet.samples' got '0'"),
        (("--set", "latent=0"), "'nnUNetTrainerPUNet.latent' got '0'"),
        (("--set", "beta=-1"), "'nnUNetTrainerPUNet.beta' got '-1'"),
        (("--set", "iou=jml"), "'iou' is set, but nnUNetTrainerPUNet's loss has no IoU in it"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(folders, capsys, flags, sentence):
    dataset = make_voted(folders)
    assert call(*flags) == 1
    assert sentence in capsys.readouterr().err
    assert not list(preprocessed_folder(dataset).glob("nnUNetPlans_*.json"))


def test_teachers_that_answer_nowhere_do_not_count(folders):
    dataset = make_voted(folders)
    votes = VotesFolder.of(preprocessed_folder(dataset), "nnUNetPlans_2d")
    for record in votes.index.cases.values():
        record.answers["t1"] = []
    votes.write_index(votes.index)
    with pytest.raises(RecipeError, match="needs two or more that answer, but the recipe has t0"):
        trainer_of(dataset, recipe_of("t0", "t1")).get_tr_and_val_datasets()
    nnUNetTrainerPUNet.check_recipe(recipe_of("t0", "t1", manual="only"), votes)


def test_options_of_other_losses_are_refused_in_stock_training_too(folders):
    with pytest.raises(SettingError, match="'iou_over' is set"):
        trainer_of(make_voted(folders), recipe_of("t0", "t1", iou_over="batch")).get_tr_and_val_datasets()


def test_option_defaults():
    options = PUNetOptions()
    assert (options.beta, options.latent, options.samples, options.lr) == (1.0, 6, 10, 1e-4)


def test_a_label_alone_needs_two_teachers_that_answer_for_it():
    case = SimpleNamespace(answers={"t0": ["liver", "spleen"], "t1": ["liver"]})
    votes = SimpleNamespace(index=SimpleNamespace(labels=["liver", "spleen"], cases={"toy_000": case}))
    nnUNetTrainerPUNet.check_recipe(replace(recipe_of("t0", "t1"), label="liver"), votes)
    with pytest.raises(RecipeError, match="the recipe has t0 for spleen"):
        nnUNetTrainerPUNet.check_recipe(replace(recipe_of("t0", "t1"), label="spleen"), votes)
