"""What each number of theta draws: against other people's interpolation and cosine transform."""

import pytest
import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reprogram.errors import ConfigError
from reprogram.programs.base import InputProgram
from reprogram.programs.basis import Basis
from reprogram.programs.frame import FrameProgram
from reprogram.programs.full import FullProgram

CANVAS = (12, 10)
SUPPORT = torch.ones(6, 6, dtype=torch.bool).triu(1)
OPTIONS = [
    {"resolution": 4},
    {"resolution": [5, 3]},
    {"resolution": [12, 10]},
    {"resolution": 5, "basis": "dct"},
    {"resolution": [12, 10], "basis": "dct"},
    {"resolution": 4, "tied": True},
    {"resolution": 5, "basis": "dct", "tied": True},
    {"tied": True},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def everywhere(canvas: tuple[int, int] = CANVAS) -> Tensor:
    return torch.ones(1, 1, *canvas, dtype=torch.bool)


def same(field: Tensor) -> Tensor:
    return field


def functions(basis: Basis) -> Tensor:
    """What a unit of every coefficient draws: [D, 3, H, W]."""
    return basis(torch.eye(basis.dimension, dtype=torch.float64), same)


@pytest.mark.parametrize("resolution", [1, 2, 4, 7, (5, 3), (1, 10), (12, 10)])
def test_the_grid_is_torchs_bilinear_interpolation(resolution: int | tuple[int, int]) -> None:
    basis = Basis(CANVAS, everywhere(), resolution)
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    assert basis.dimension == 3 * sides[0] * sides[1]
    theta = torch.randn(2, basis.dimension, dtype=torch.float64)
    expected = interpolate(theta.view(2, 3, *sides), CANVAS, mode="bilinear", align_corners=False)
    torch.testing.assert_close(basis(theta, same), expected, atol=1e-6, rtol=0)


def test_a_unit_of_the_grid_is_one_at_the_centre_of_its_cell_and_zero_at_those_of_others() -> None:
    drawn = functions(Basis((15, 9), everywhere((15, 9)), (5, 3)))  # cells of 3 x 3 pixels have a pixel in the middle
    centres = drawn[:, :, 1::3, 1::3].reshape(len(drawn), -1)
    torch.testing.assert_close(centres, torch.eye(3 * 5 * 3, dtype=torch.float64))


@pytest.mark.parametrize("resolution", [4, (5, 3), (12, 10)])
def test_the_waves_are_the_inverse_cosine_transform_of_scipy(resolution: int | tuple[int, int]) -> None:
    basis = Basis(CANVAS, everywhere(), resolution, "dct")
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    theta = torch.randn(basis.dimension, dtype=torch.float64)
    spectrum = torch.zeros(3, *CANVAS, dtype=torch.float64)
    spectrum[:, :height, :width] = theta.view(3, height, width)
    expected = scipy.fft.idctn(spectrum.numpy(), axes=(1, 2), norm="ortho") * (CANVAS[0] * CANVAS[1]) ** 0.5
    torch.testing.assert_close(basis(theta, same)[0], torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_the_waves_are_orthogonal_have_a_root_mean_square_of_one_and_begin_with_the_constant() -> None:
    drawn = functions(Basis(CANVAS, everywhere(), (6, 4), "dct"))
    gram = drawn.flatten(1) @ drawn.flatten(1).T / (CANVAS[0] * CANVAS[1])
    torch.testing.assert_close(gram, torch.eye(3 * 24, dtype=torch.float64), atol=1e-6, rtol=0)
    assert drawn[0, 0].eq(1).all()
    assert not drawn[0, 1:].any()


@pytest.mark.parametrize("kind", ["grid", "dct"])
@pytest.mark.parametrize("side", [9, 10, 21])
def test_no_rounding_error_counts_as_a_coefficient(kind: str, side: int) -> None:
    free = torch.zeros(1, 1, side, side, dtype=torch.bool)
    free[..., side // 2, side // 2] = True  # where many a tent begins and, if the side is odd, odd waves vanish
    for resolution in range(1, side + 1):
        drawn = functions(Basis((side, side), everywhere((side, side)), resolution, kind))
        acting = drawn[..., side // 2, side // 2].abs().sum(dim=1) > 1e-3
        assert Basis((side, side), free, resolution, kind).dimension == acting.sum()


@pytest.mark.parametrize(
    "free_rows", [[0], [11], [0, 1, 10, 11], [5, 6], list(range(12))], ids=lambda rows: f"{len(rows)}-from-{rows[0]}"
)
@each_option
def test_theta_holds_every_coefficient_that_acts_and_no_other(options: dict, free_rows: list[int]) -> None:
    free = torch.zeros(1, 1, *CANVAS, dtype=torch.bool)
    free[:, :, free_rows, :4] = True
    options = {"resolution": None, **options}
    resolution, kind, tied = options["resolution"], options.get("basis", "grid"), options.get("tied", False)
    whole, basis = (Basis(CANVAS, where, resolution, kind, tied) for where in (everywhere(), free))
    on_free = functions(whole) * free
    acting = on_free.flatten(1).abs().amax(dim=1) > 1e-6
    torch.testing.assert_close(functions(basis), on_free[acting])


@each_option
@pytest.mark.parametrize("support", [None, SUPPORT], ids=["whole", "support"])
def test_the_gradient_reaches_every_coordinate_and_is_the_one_of_finite_differences(options, support) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.4 + 0.2 * torch.rand(2, 3, 6, 6, generator=generator, dtype=torch.float64)
    frame = FrameProgram(CANVAS, 6, (2, 1), support, **options)
    full = FullProgram(CANVAS, 6, (2, 1), support, 0.3, **options)
    for program in (frame.double(), full.double()):
        context = program.context(images)
        theta = 0.1 * torch.randn(2, len(program.theta), generator=generator, dtype=torch.float64)
        weight = torch.randn(2, 3, *CANVAS, generator=generator, dtype=torch.float64)

        def loss(
            theta: Tensor, program: InputProgram = program, context: Tensor = context, weight: Tensor = weight
        ) -> Tensor:
            return (program(context, theta) * weight).sum()

        assert torch.autograd.gradcheck(loss, theta.requires_grad_())
        (gradient,) = torch.autograd.grad(loss(theta), theta)
        assert (gradient != 0).all()


@each_option
@pytest.mark.parametrize("kind", [FrameProgram, FullProgram])
def test_a_row_of_theta_draws_what_it_draws_alone(options: dict, kind: type[FrameProgram | FullProgram]) -> None:
    program = kind(CANVAS, 6, **options)
    context, theta = program.context(torch.rand(4, 3, 6, 6)), torch.randn(4, len(program.theta))
    together = program(context, theta)
    assert together.shape == (4, 3, *CANVAS)
    for index in range(4):
        torch.testing.assert_close(together[index], program(context, theta[index])[index])
    assert not together[0].equal(together[1])


@pytest.mark.parametrize("options", [{}, {"resolution": 4}, {"resolution": 4, "basis": "dct"}], ids=str)
@pytest.mark.parametrize("kind", [FrameProgram, FullProgram])
def test_tied_channels_are_three_equal_ones(options: dict, kind: type[FrameProgram | FullProgram]) -> None:
    tied, loose = kind(CANVAS, 6, tied=True, **options), kind(CANVAS, 6, **options)
    assert 3 * len(tied.theta) == len(loose.theta)
    theta, context = torch.randn(len(tied.theta)), loose.context(torch.rand(2, 3, 6, 6))
    torch.testing.assert_close(tied(context, theta), loose(context, theta.repeat(3)))
    drawn = tied(tied.context(torch.zeros(1, 3, 6, 6)), theta)
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    assert drawn[0, 0, 0].std() > 0


@each_option
def test_no_resolution_changes_a_target_pixel(options: dict) -> None:
    program, images = FrameProgram(CANVAS, 6, (2, 1), **options), torch.rand(2, 3, 6, 6)
    canvas = program(program.context(images), 10 * torch.randn(2, len(program.theta)))
    assert torch.equal(canvas[:, :, 2:8, 1:7], images)


def test_the_full_program_is_free_under_the_target_image_too() -> None:
    assert len(FullProgram((224, 224), 64, resolution=16).theta) == 768
    assert len(FullProgram((224, 224), 64, resolution=16, tied=True).theta) == 256
    assert len(FrameProgram((224, 224), 168, resolution=16).theta) == 3 * (16**2 - 10**2)  # 156 cells touch the frame


@pytest.mark.parametrize("options", [{"resolution": 4}, {"resolution": 4, "basis": "dct", "tied": True}], ids=str)
def test_the_state_is_theta_alone_for_every_basis(options: dict) -> None:
    assert list(FrameProgram(CANVAS, 6, **options).state_dict()) == ["theta"]
    assert list(FullProgram(CANVAS, 6, **options).state_dict()) == ["theta"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, r"program\.resolution: expected 1 to 12 rows and 1 to 10 columns .*got 0"),
        ({"resolution": -1}, r"program\.resolution: .*got -1"),
        ({"resolution": 11}, r"program\.resolution: .*got 11"),
        ({"resolution": [13, 10]}, r"program\.resolution: .*got \[13, 10\]"),
        ({"resolution": [4, 0], "basis": "dct"}, r"program\.resolution: .*got \[4, 0\]"),
        ({"resolution": [4]}, r"program\.resolution: .*\[rows, columns\]"),
        ({"resolution": [4, 4, 3]}, r"program\.resolution: .*\[rows, columns\]"),
        ({"resolution": 4, "basis": "fourier"}, r"program\.basis: expected grid or dct, got 'fourier'"),
        ({"basis": "dct"}, r"program\.resolution: expected a number for program\.basis=dct, got null"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [FrameProgram, FullProgram])
def test_a_basis_that_cannot_be_is_refused(kind: type[InputProgram], options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(CANVAS, 6, **options)
