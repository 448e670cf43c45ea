"""nnkd_litemedsam.networks.graphs: a model taken apart is the model, for any number of boxes."""

from __future__ import annotations

import pytest
from extras import needs

pytestmark = needs("litemedsam", "segment_anything")

torch = pytest.importorskip("torch")
from nnkd_litemedsam.networks.graphs import graphs_of  # noqa: E402
from nnkd_litemedsam.networks.model import LiteMedSAM  # noqa: E402
from nnkd_litemedsam.networks.repvit import RepViT  # noqa: E402
from nnkd_litemedsam.networks.tiny_vit import TinyViT  # noqa: E402

SMALL = {"widths": (4, 8, 8, 8), "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2)}
WEIGHTS = {"name": "toy.pth", "sha256": "00", "licence": ""}


@pytest.fixture(scope="module", params=["tinyvit", "repvit"])
def graphs(request):
    torch.manual_seed(0)
    small = RepViT(((4, True), (8, False), (8, True))) if request.param == "repvit" else TinyViT(**SMALL)
    network = LiteMedSAM(small)
    for parameter in network.parameters():  # biases that start at 0 would hide a forgotten one
        parameter.data += 0.1 * torch.randn_like(parameter)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
    return graphs_of(network, request.param, WEIGHTS)


def boxes(number: int):
    corners = 20 + 150 * torch.rand(number, 2, generator=torch.Generator().manual_seed(number))
    return torch.cat([corners, corners + 30], dim=1)


@pytest.mark.heavy
@pytest.mark.parametrize("number", [1, 3])
def test_the_parts_are_the_whole(graphs, number):
    image = torch.rand(1, 3, 256, 256)
    with torch.inference_mode():
        expected = graphs.whole(image, boxes(number))
        found = graphs.decoder(graphs.encoder(image)[0], boxes(number))
    assert found.shape == (number, 256, 256)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert type(graphs.encoder) is not type(graphs.whole.image_encoder)  # channels are in front
    assert graphs.whole._folded is None  # what is compared with stays as it was trained


@pytest.mark.heavy
@pytest.mark.parametrize("graphs", ["tinyvit"], indirect=True)  # the decoder is always the same
def test_no_number_of_boxes_is_written_into_the_decoder(graphs):
    number = torch.export.Dim("n", min=1)
    shapes = {"embedding": None, "boxes": {0: number}}
    with torch.enable_grad():  # as nnkd.networks.files does it; a fixed number is an error here
        program = torch.export.export(
            graphs.decoder, (torch.zeros(256, 64, 64), boxes(2)), dynamic_shapes=shapes, strict=False
        )
    embedding = torch.randn(256, 64, 64)
    with torch.inference_mode():
        expected = graphs.decoder(embedding, boxes(5))
        torch.testing.assert_close(program.module()(embedding, boxes(5)), expected, rtol=1e-3, atol=1e-3)
