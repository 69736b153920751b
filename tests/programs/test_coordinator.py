"""The coordinator: its decoder against another one, what its encoder is asked, and whose the encoder is."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from reprogram.errors import ConfigError, RunError, SourceError
from reprogram.instantiation import call
from reprogram.programs.coordinator import CoordinatorProgram
from reprogram.sources.base import SourceModel
from reprogram.sources.black_box import BlackBox
from reprogram.sources.embedded import embedded_source
from reprogram.sources.ledger import Ledger
from reprogram.sources.network import NetworkSource
from reprogram.sources.prepared import PreparedSource

HALF = (0.5, 0.5, 0.5)


class Scale(nn.Module):
    """Multiplies its input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def toy(size: tuple[int, int] = (40, 36), factor: float = 1.0, side: int = 2) -> NetworkSource:
    """Its features are the mean colours of side x side fields, normalised to [-1, 1], times the factor."""
    layers = [nn.AdaptiveAvgPool2d(side), nn.Flatten(), Scale(factor), nn.Linear(3 * side**2, 4)]
    return NetworkSource("toy", nn.Sequential(*layers), size, HALF, HALF)


class Counting(nn.Module):
    """Keeps every batch of images that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.layer(x.mean((2, 3)))


def moved(program: CoordinatorProgram, scale: float = 0.5) -> CoordinatorProgram:
    with torch.no_grad():
        program.theta.copy_(scale * torch.randn_like(program.theta))
    return program


# ------------------------------------------------------------------------------------------------------- the formula


def decoded(features: Tensor, theta: Tensor, cells: tuple[int, int]) -> Tensor:
    """dec(z, trigger) of one image by sums of its own: [F], [D] -> [3, 32 rows, 32 columns]."""
    rows, columns = cells
    channels = max(32, math.ceil((len(features) + 1) / (rows * columns)))
    left = theta

    def take(*shape: int) -> Tensor:
        nonlocal left
        taken, left = left.tensor_split([math.prod(shape)])
        return taken.view(shape)

    z = (features - features.mean()) / features.std(correction=0)
    maps = torch.cat([z, take(channels * rows * columns - len(z))]).view(channels, rows, columns)
    for width in (64, 48, 32, 16, 8):
        kernels = take(len(maps), 1, 2, 2)
        maps = torch.stack([torch.kron(one, kernel[0]) for one, kernel in zip(maps, kernels, strict=True)])
        weight, bias = take(width, len(maps)), take(width)
        maps = torch.einsum("oi,iyx->oyx", weight, maps) + bias[:, None, None]
        groups = [(g - g.mean()) / (g.var(correction=0) + 1e-5).sqrt() for g in maps.split(8)]
        gain, shift = take(width), take(width)
        maps = gain[:, None, None] * torch.cat(groups) + shift[:, None, None]
        maps = maps * (1 + torch.erf(maps / 2**0.5)) / 2
    weight, bias = take(3, 8), take(3)
    assert len(left) == 0
    return torch.einsum("oi,iyx->oyx", weight, maps) + bias[:, None, None]


@pytest.mark.parametrize("side", [2, 7], ids=["12-features", "147-features"])
@pytest.mark.parametrize("rows_of_theta", [(), (2,)], ids=["shared", "rows"])
def test_it_is_its_formula_and_so_is_the_gradient(rows_of_theta: tuple[int, ...], side: int) -> None:
    program = CoordinatorProgram((40, 36), toy(side=side), strength=0.4).double()
    images = torch.rand(2, 3, 40, 36, dtype=torch.float64)
    theta = (0.5 * torch.randn(*rows_of_theta, len(program.theta), dtype=torch.float64)).requires_grad_()
    expected = []
    for image, row in zip(images, theta.expand(2, -1), strict=True):
        fields = nn.functional.adaptive_avg_pool2d(2 * image - 1, side)
        offset = 0.4 * torch.tanh(decoded(fields.flatten(), row, (2, 2))[:, :40, :36])
        expected.append((image + offset).clamp(0, 1))
    found = program(program.context(images), theta)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)  # features are in single precision
    assert (found - images).abs().mean() > 0.01
    weight = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((canvases * weight).sum(), theta)[0] for canvases in (found, torch.stack(expected))
    ]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_its_size_is_about_that_of_the_paper() -> None:
    whole = NetworkSource(
        "wide", nn.Sequential(nn.AdaptiveAvgPool2d(16), nn.Flatten(), nn.Linear(768, 2)), (16, 16), HALF, HALF
    )
    program = CoordinatorProgram((224, 224), whole)
    assert (program.cells, program.trigger) == ((32, 7, 7), 800)  # 1568 numbers, as in the authors' code
    assert len(program.theta) == 800 + 8_595
    small = CoordinatorProgram((20, 16), embedded_source())
    assert (small.cells, small.trigger) == ((193, 1, 1), 1)  # one cell must hold all 192 features
    assert CoordinatorProgram((33, 65), embedded_source()).cells == (33, 2, 3)


# ---------------------------------------------------------------------------------------------------------- the start


def test_without_training_the_image_lies_unchanged_on_grey() -> None:
    program, images = CoordinatorProgram((20, 16), toy(), (9, 7), (3, 2)), torch.rand(2, 3, 9, 7)
    canvas = program(program.context(images)).detach().clone()
    assert torch.equal(canvas[:, :, 3:12, 2:9], images)
    canvas[:, :, 3:12, 2:9] = 0.5
    assert canvas.eq(0.5).all()


def test_the_start_is_that_of_its_seed_and_takes_no_other_random_numbers() -> None:
    encoder, before = toy(), torch.get_rng_state()
    one, same, other = (CoordinatorProgram((20, 16), encoder, seed=seed).theta for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_first_gradient_moves_the_last_layer_the_next_one_all() -> None:
    program, images = CoordinatorProgram((40, 36), toy()), 0.4 + 0.2 * torch.rand(3, 3, 40, 36)
    weight = torch.randn(3, 3, 40, 36)
    (program(program.context(images)) * weight).sum().backward()
    assert program.theta.grad is not None
    assert not program.theta.grad[:-27].any()
    assert program.theta.grad[-27:].ne(0).all()
    with torch.no_grad():
        program.theta.sub_(1e-3 * program.theta.grad)
    program.theta.grad = None
    (program(program.context(images)) * weight).sum().backward()
    assert program.theta.grad.ne(0).float().mean() > 0.99


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_the_offset_is_bounded_by_strength_and_norm(strength: float) -> None:
    images = torch.full((2, 3, 20, 16), 0.5)
    program = moved(CoordinatorProgram((20, 16), toy(), strength=strength), 3.0)
    offset = program(program.context(images)) - images
    assert offset.abs().max().item() == pytest.approx(min(strength, 0.5), abs=1e-3)
    bounded = CoordinatorProgram((20, 16), toy(), strength=strength, max_norm=0.3)
    offset = bounded(bounded.context(images), program.theta) - images
    torch.testing.assert_close(offset.flatten(1).norm(dim=1), torch.tensor([0.3, 0.3]), atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------- what the encoder is asked


def test_the_encoder_is_asked_once_for_an_image_however_many_thetas_follow() -> None:
    network = Counting()
    program = moved(CoordinatorProgram((20, 16), NetworkSource("eye", network, (20, 16), HALF, HALF)))
    network.seen.clear()
    context = program.context(torch.rand(4, 3, 20, 16))
    assert [len(batch) for batch in network.seen] == [4]
    points = torch.randn(10, len(program.theta))
    canvases = []
    for start in range(0, 40, 8):  # as estimators do: pairs of a point and an example, in chunks
        pairs = torch.arange(start, start + 8)
        canvases.append(program(tuple(part[pairs % 4] for part in context), points[pairs // 4]))
    program(context)
    program(context, points[0])
    assert len(network.seen) == 1
    assert torch.cat(canvases).flatten(1).unique(dim=0).shape[0] == 40


def test_the_encoder_sees_the_placed_image_in_its_own_size() -> None:
    network = Counting()
    program = CoordinatorProgram((24, 20), NetworkSource("eye", network, (12, 10), HALF, HALF), size=[16, 12])
    images = torch.rand(2, 3, 16, 12)
    placed, features = program.context(images)
    canvas = torch.full((2, 3, 24, 20), 0.5)
    canvas[:, :, 4:20, 4:16] = images
    assert torch.equal(placed, canvas)
    expected = interpolate(canvas, (12, 10), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(network.seen[-1], 2 * expected - 1)
    assert features.shape == (2, 3)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3])
def test_the_scale_of_the_features_does_not_matter(factor: float) -> None:
    images = torch.rand(3, 3, 40, 36)
    features = CoordinatorProgram((40, 36), toy()).context(images)[1]
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(features.std(dim=1, correction=0), torch.ones(3))
    scaled = CoordinatorProgram((40, 36), toy(factor=factor)).context(images)[1]
    torch.testing.assert_close(scaled, features, atol=1e-5, rtol=0)


@pytest.mark.parametrize("level", [0.5, 0.3])
def test_features_that_say_nothing_are_no_noise(level: float) -> None:
    program = moved(CoordinatorProgram((40, 36), toy()))
    features = program.context(torch.full((2, 3, 40, 36), level))[1]  # all equal; at mid-grey all zero
    assert features.abs().max() < 0.02


def test_the_offset_is_another_for_every_image_and_does_not_depend_on_the_batch() -> None:
    program, images = moved(CoordinatorProgram((20, 16), embedded_source())), 0.4 + 0.2 * torch.rand(3, 3, 20, 16)
    context = program.context(images)
    together = program(context)
    offsets = together - images
    assert (offsets[0] - offsets[1]).abs().max() > 0.01
    for index in range(3):
        alone = program(program.context(images[index : index + 1]))
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


def test_a_faster_encoder_is_taken_too() -> None:
    images = torch.rand(2, 3, 20, 16)
    exact = CoordinatorProgram((20, 16), embedded_source()).context(images)[1]
    block = {"_target_": "reprogram.sources.embedded.embedded_source"}
    prepared = {"_target_": "reprogram.sources.prepared.PreparedSource", "source": block, "precision": "bfloat16"}
    choice = {"_target_": "reprogram.programs.coordinator.CoordinatorProgram", "encoder": prepared}
    program: CoordinatorProgram = call(choice, "program", canvas=(20, 16), support=None, seed=0)
    found = program.context(images)[1]
    assert (found - exact).norm() < 0.1 * exact.norm()
    assert torch.equal(program.encoder_fingerprint, CoordinatorProgram((8, 8), embedded_source()).encoder_fingerprint)


# -------------------------------------------------------------------------------------- whose the encoder is, and which


def test_the_encoder_is_no_part_of_the_program() -> None:
    encoder = embedded_source()
    encoder.network.train()
    program = CoordinatorProgram((20, 16), encoder)
    assert list(program.state_dict()) == ["theta", "encoder_fingerprint"]
    assert list(program.parameters()) == [program.theta]
    assert not any(isinstance(module, SourceModel) for module in program.modules())
    program.train()
    program.requires_grad_(True)
    program(program.context(torch.rand(2, 3, 20, 16))).sum().backward()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())


def test_the_encoder_moves_with_the_program_and_is_copied_with_it() -> None:
    encoder = embedded_source()
    program = moved(CoordinatorProgram((20, 16), encoder))
    images = torch.rand(2, 3, 20, 16)
    canvas = program(program.context(images))
    other = copy.deepcopy(program)
    wrapper = nn.Sequential(program).double()
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float64}
    assert program.encoder_fingerprint.dtype == torch.uint8
    exact = program(program.context(images.double()))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact.float(), canvas, atol=1e-4, rtol=0)
    wrapper.to("meta")
    assert all(tensor.is_meta for tensor in (*encoder.parameters(), *encoder.buffers()))
    assert torch.equal(other(other.context(images)), canvas)


def test_a_program_is_refused_by_another_encoder() -> None:
    torch.manual_seed(1)
    one, other = toy(), toy()
    assert one.fingerprint != other.fingerprint
    trained = nn.ModuleDict({"program": moved(CoordinatorProgram((20, 16), one))})
    state = trained.state_dict()
    same = nn.ModuleDict({"program": CoordinatorProgram((20, 16), copy.deepcopy(one))})
    same.load_state_dict(state)
    assert torch.equal(same["program"].theta, trained["program"].theta)
    stranger = nn.ModuleDict({"program": CoordinatorProgram((20, 16), other)})
    before = stranger["program"].theta.detach().clone()
    for strict in (True, False):
        with pytest.raises(
            RunError, match=rf"program\.encoder: .*{one.fingerprint[:12]}.*{other.fingerprint[:12]}; use"
        ):
            stranger.load_state_dict(state, strict=strict)
    assert torch.equal(stranger["program"].theta, before)
    assert bytes(state["program.encoder_fingerprint"].tolist()).hex() == one.fingerprint


def test_an_encoder_prepared_for_speed_is_still_the_same() -> None:
    program = moved(CoordinatorProgram((20, 16), PreparedSource(embedded_source(), "float32")))
    other = CoordinatorProgram((20, 16), embedded_source())
    other.load_state_dict(program.state_dict())
    images = torch.rand(2, 3, 20, 16)
    torch.testing.assert_close(other(other.context(images)), program(program.context(images)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.0}, r"program\.strength"),
        ({"strength": 1.5}, r"program\.strength"),
        ({"max_norm": -1.0}, r"program\.max_norm"),
        ({"size": 21}, r"program\.size"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CoordinatorProgram((20, 16), toy(), **options)


def test_an_encoder_that_shows_no_features_is_refused() -> None:
    with pytest.raises(SourceError, match="expected one network, got only its scores"):
        CoordinatorProgram((20, 16), BlackBox(toy(), Ledger(None, "run")))
    blind = NetworkSource("blind", nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), (6, 6), HALF, HALF)
    with pytest.raises(SourceError, match="features cannot be reached"):
        CoordinatorProgram((20, 16), blind)
