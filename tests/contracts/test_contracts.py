"""What every leaf of an interface keeps. The config folder is the registry: a new file is tested by being there."""

import copy
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from http_services import LABELS, SERVICES, SIZE
from leaves import CONFIGS, FACTS, GROUPS, SOURCE_CLASSES, block, configs, each, mapping, target
from omegaconf import OmegaConf
from safetensors.torch import save_file
from scoring_stub import serving
from tiny_clip import CONFIG, save_clip
from torch import Tensor, nn

from reprogram.build import ACCESS_KEYS
from reprogram.classifier import ReprogrammedClassifier
from reprogram.errors import ConfigError, QueryBudgetExceeded
from reprogram.estimators.backprop import Backprop
from reprogram.estimators.base import GradientEstimator, StepKey
from reprogram.estimators.two_sided import TwoSided
from reprogram.instantiation import bind, call
from reprogram.losses import CrossEntropy, Loss
from reprogram.mappings.base import LabelMapping
from reprogram.mappings.linear import LinearMapping
from reprogram.objective import BatchObjective, Evaluation
from reprogram.programs.base import Context, InputProgram
from reprogram.programs.frame import FrameProgram
from reprogram.programs.full import FullProgram
from reprogram.sources.base import SourceModel
from reprogram.sources.black_box import BlackBox
from reprogram.sources.embedded import embedded_source
from reprogram.sources.ledger import Ledger
from reprogram.sources.module import module_source
from reprogram.sources.network import fingerprint
from reprogram.sources.prepared import PreparedSource
from reprogram.sources.remote import RemoteSource
from reprogram.types import TaskSpec

ALL = [path for group in GROUPS for path in configs(group) if block(path)["_target_"] is not None]


def test_every_group_has_configs_with_a_target() -> None:
    assert {path.relative_to(CONFIGS).parts[0] for path in ALL} == set(GROUPS)


@pytest.mark.parametrize("config", ALL, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_key_is_an_argument_and_no_fact_is_a_choice(config: Path) -> None:
    group, values = config.relative_to(CONFIGS).parts[0], block(config)
    parameters = set(inspect.signature(target(values)).parameters)
    keys = set(values) - {"_target_"}
    assert keys <= parameters
    assert not keys & FACTS.get(group, set())
    if group not in ("source", "data"):  # there a user must choose
        assert "???" not in values.values()
        bind(values, group)  # the values have the types of the arguments


@pytest.mark.parametrize(
    "config",
    [path for path in ALL if path.relative_to(CONFIGS).parts[0] not in ("optimizer", "data")],
    ids=lambda path: path.relative_to(CONFIGS).as_posix(),
)
def test_every_choice_is_shown_with_the_default_of_its_argument(config: Path) -> None:
    group, values = config.relative_to(CONFIGS).parts[0], block(config)
    parameters = {
        name: parameter.default
        for name, parameter in inspect.signature(target(values)).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name not in FACTS.get(group, set())
    }
    assert set(parameters) == set(values) - {"_target_"}
    for name, default in parameters.items():
        if default is not inspect.Parameter.empty and values[name] != {}:  # no arguments: None in the signature
            assert values[name] == (list(default) if isinstance(default, tuple) else default), name


@each("access")
def test_an_access_is_open_or_has_every_key_of_the_run(config: Path) -> None:
    values = OmegaConf.to_container(OmegaConf.load(config))
    assert isinstance(values, dict)
    assert set(ACCESS_KEYS) <= set(values) or values == {"_target_": None}


# ---------------------------------------------------------------------------------------------------------- programs

CANVAS = (20, 16)
SUPPORT = torch.ones(10, 8, dtype=torch.bool).triu(1)


OPTIONS: dict[str, dict[str, Any]] = {  # of theta; a program that has no such arguments is tested without
    "as-configured": {},
    "grid": {"resolution": 4},
    "dct": {"resolution": 4, "basis": "dct"},
    "tied": {"resolution": 4, "tied": True},
    "tied-pixels": {"tied": True},
}
each_program = pytest.mark.parametrize(
    "choice",
    [
        pytest.param({**block(path), **options}, id=f"{path.stem}-{name}")
        for path in configs("program")
        for name, options in OPTIONS.items()
        if set(options) <= set(block(path))
    ],
)


def program(choice: dict[str, Any], support: Tensor | None = None) -> InputProgram:
    made: InputProgram = call(choice, "program", canvas=CANVAS, support=support, seed=0, encoder=embedded_source())
    return made


def rows_of(context: Context, index: int) -> Context:
    return tuple(part[index : index + 1] for part in context)


def moved(made: InputProgram, scale: float = 2.0) -> InputProgram:
    with torch.no_grad():
        made.theta.copy_(scale * torch.randn_like(made.theta))
    return made


@each_program
@pytest.mark.parametrize("support", [None, SUPPORT], ids=["whole", "support"])
def test_a_program_composes_valid_images_of_the_canvas(choice: dict[str, Any], support: Tensor | None) -> None:
    for images in (torch.zeros(3, 3, 10, 8), torch.ones(3, 3, 10, 8), torch.rand(3, 3, 10, 8)):
        for scale in (0.0, 2.0, 50.0):
            made = moved(program(choice, support), scale)
            canvas = made(made.context(images))
            assert canvas.shape == (3, 3, *CANVAS)
            assert canvas.dtype == torch.float32
            assert canvas.min() >= 0
            assert canvas.max() <= 1


@each_program
@pytest.mark.parametrize("support", [None, SUPPORT], ids=["whole", "support"])
def test_the_gradient_reaches_every_parameter(choice: dict[str, Any], support: Tensor | None) -> None:
    made, acts = program(choice, support), torch.tensor(False)
    assert made.theta.ndim == 1
    assert list(made.parameters()) == [made.theta]
    for scale in (0.0, *[0.3] * 12, *[6.0] * 24):  # what one place, or one scale, hides, another shows
        moved(made, scale)
        canvas = made(made.context(0.2 + 0.6 * torch.rand(2, 3, 10, 8)))
        (gradient,) = torch.autograd.grad((canvas * torch.randn(2, 3, *CANVAS)).sum(), made.theta)
        acts = acts | (gradient != 0)
    assert acts.all()  # theta holds only what can act


@each_program
def test_the_state_of_a_program_is_theta_and_comes_back(choice: dict[str, Any]) -> None:
    one, other, images = moved(program(choice)), program(choice), torch.rand(2, 3, 10, 8)
    assert list(dict(one.named_parameters())) == ["theta"]
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(other.context(images)), one(one.context(images)))


@each_program
def test_given_parameters_act_as_own_ones(choice: dict[str, Any]) -> None:
    made, images = moved(program(choice)).double(), torch.rand(3, 3, 10, 8).double()
    context = made.context(images)
    own, theta = made(context), made.theta.detach()
    assert torch.equal(made(context, theta), own)
    torch.testing.assert_close(made(context, theta.expand(3, -1)), own)  # other shapes, other rounding
    rows = torch.randn(3, len(theta), dtype=torch.float64)
    together = made(context, rows)
    for index in range(3):
        torch.testing.assert_close(together[index], made(rows_of(context, index), rows[index])[0])


@each_program
def test_the_context_does_not_depend_on_theta_and_one_image_not_on_the_others(choice: dict[str, Any]) -> None:
    made, images = program(choice).double(), torch.rand(3, 3, 10, 8).double()
    before = [part.clone() for part in made.context(images)]
    assert all(torch.equal(*pair) for pair in zip(moved(made).context(images), before, strict=True))
    canvas = made(made.context(images))
    torch.testing.assert_close(made(made.context(images[1:2]))[0], canvas[1])


@each_program
def test_an_untrained_program_leaves_the_target_image_as_it_is(choice: dict[str, Any]) -> None:
    made, images = program(choice), torch.rand(2, 3, 10, 8)
    placed = made.placement(images)
    covered = made.placement.covered.expand(2, 3, *CANVAS)
    canvas = made(made.context(images))
    torch.testing.assert_close(canvas[covered], placed[covered], atol=5e-4, rtol=0)  # an eighth of a level
    if isinstance(made, FrameProgram):  # a trained one too
        canvas = moved(made)(made.context(images))
        assert torch.equal(canvas[covered], placed[covered])


@each_program
def test_a_target_image_larger_than_the_canvas_is_refused(choice: dict[str, Any]) -> None:
    for size in (17, [21, 8]):
        with pytest.raises(ConfigError, match=r"program\.size"):
            call({**choice, "size": size}, "program", canvas=CANVAS, support=None, seed=0, encoder=embedded_source())


@each_program
def test_a_program_works_in_float64(choice: dict[str, Any]) -> None:
    made = moved(program(choice)).double()
    canvas = made(made.context(torch.rand(1, 3, 10, 8, dtype=torch.float64)))
    assert canvas.dtype == torch.float64


# ---------------------------------------------------------------------------------------------------------- mappings


def confident(classes: list[int]) -> Tensor:
    return (torch.nn.functional.one_hot(torch.tensor(classes), SOURCE_CLASSES) * 6.0).log_softmax(1)


def fitted(config: Path, target_classes: int, seen: list[int]) -> LabelMapping:
    """Has seen that images of class t are taken for source class 11 - t."""
    made = mapping(config, target_classes)
    targets = torch.tensor(seen * 6)
    noise = torch.randn(len(targets), SOURCE_CLASSES, generator=torch.Generator().manual_seed(0))
    log_probs = (confident((11 - targets).tolist()) + 0.1 * noise).log_softmax(1)
    made.observe(log_probs, targets)
    made.refit()
    return made


@each("mapping")
@pytest.mark.parametrize("target_classes", [2, 5, SOURCE_CLASSES])
def test_a_mapping_scores_every_target_class_and_can_decide_for_each(config: Path, target_classes: int) -> None:
    made = fitted(config, target_classes, list(range(target_classes)))
    scores = made(confident(list(range(SOURCE_CLASSES))))
    assert scores.shape == (SOURCE_CLASSES, target_classes)
    assert torch.isfinite(scores).all()
    assert set(scores.argmax(1).tolist()) == set(range(target_classes))


@each("mapping")
@pytest.mark.parametrize("seen", [[0], [1], [0, 2]])
def test_a_class_missing_from_training_does_no_harm(config: Path, seen: list[int]) -> None:
    made = fitted(config, 3, seen)
    scores = made(confident(list(range(SOURCE_CLASSES))))
    assert torch.isfinite(scores).all()
    if made.state_dict().keys() & {"counts", "weight"}:  # it was fitted: the classes seen are told apart
        assert made(confident([11 - label for label in seen])).argmax(1).tolist() == seen


@each("mapping")
def test_a_mapping_is_the_same_every_time(config: Path) -> None:
    one, other = (fitted(config, 4, [0, 1, 2, 3]) for _ in range(2))
    log_probs = torch.randn(9, SOURCE_CLASSES).log_softmax(1)
    assert torch.equal(one(log_probs), other(log_probs))
    assert torch.equal(mapping(config, 4)(log_probs), mapping(config, 4)(log_probs))


@each("mapping")
def test_the_state_of_a_mapping_comes_back(config: Path) -> None:
    one, other = fitted(config, 4, [0, 1, 2, 3]), mapping(config, 4)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    log_probs = torch.randn(9, SOURCE_CLASSES).log_softmax(1)
    assert torch.equal(other(log_probs), one(log_probs))


@each("mapping")
def test_a_gradient_passes_through_a_mapping(config: Path) -> None:
    made, log_probs = fitted(config, 3, [0, 1, 2]), torch.randn(4, SOURCE_CLASSES).log_softmax(1).requires_grad_()
    (made(log_probs) * torch.randn(4, 3)).sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.abs().sum() > 0


@each("mapping")
def test_more_source_classes_than_there_are_are_refused(config: Path) -> None:
    if "per_class" not in block(config):
        pytest.skip("has no per_class")
    assert mapping(config, 3, per_class=4)(confident([0])).shape == (1, 3)
    with pytest.raises(ConfigError, match=r"mapping\.per_class: 3 target classes x 5 .* 12 source classes"):
        mapping(config, 3, per_class=5)


# ------------------------------------------------------------------------------------------- estimators and losses


class Toy(BatchObjective):
    """Losses of three examples as a function of theta, without any model; counts how often it was asked."""

    def __init__(self, losses: Callable[[Tensor], Tensor]) -> None:
        self.parameters = torch.linspace(-2, 2, 12, dtype=torch.float64).requires_grad_()
        self.losses, self.weights = losses, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
        self.indices, self.asked = torch.arange(3), 0

    @property
    def theta(self) -> Tensor:
        return self.parameters

    def evaluate(self) -> Evaluation:
        self.asked += 3
        losses = self.losses(self.theta)
        return Evaluation(losses, losses[:, None].expand(-1, 4), losses[:, None].expand(-1, 2))

    def at_once(self, graph: bool) -> int:
        return 3

    def evaluate_at(self, points: Tensor) -> Evaluation:
        self.asked += 3 * len(points)
        rows = [[self.losses(point)[example] for example, point in enumerate(side.expand(3, -1))] for side in points]
        losses = torch.stack([torch.stack(side) for side in rows]).detach()
        return Evaluation(losses, losses[..., None].expand(-1, -1, 4), losses[..., None].expand(-1, -1, 2))


def estimated(estimator: GradientEstimator, toy: Toy, batch: int) -> Tensor:
    """The gradient of one step, whose price and surrogate are checked."""
    toy.asked = 0
    step = estimator.step(toy, StepKey(0, 0, batch))
    assert toy.asked == 3 * estimator.queries_per_example
    torch.testing.assert_close(step.surrogate, (toy.weights * step.losses).sum(), check_stride=False)
    (gradient,) = torch.autograd.grad(step.surrogate, toy.theta)
    return gradient


def toy_estimator(config: Path) -> GradientEstimator:
    made: GradientEstimator = call(block(config), "estimator", dimension=12)
    return made.double()


@each("estimator")
@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_an_estimator_gives_the_gradient_itself_at_scale_one_or_steps_downhill(config: Path, kind: str) -> None:
    points = torch.randn(3, 12, dtype=torch.float64)
    toy = Toy(lambda theta: points @ theta if kind == "linear" else ((theta - points) ** 2).sum(1))
    mean = toy.weights @ points
    expected = mean if kind == "linear" else 2 * (toy.theta.detach() - mean)
    if toy_estimator(config).owns_update:
        gradients = torch.stack([estimated(toy_estimator(config), toy, batch) for batch in range(20)])
        assert torch.cosine_similarity(gradients.mean(dim=0), expected, dim=0) > 0.5
        return
    estimator = toy_estimator(config)
    gradients = torch.stack([estimated(estimator, toy, batch) for batch in range(300)])
    error = gradients.std(dim=0) / len(gradients) ** 0.5
    assert error.norm() < 0.3 * expected.norm()
    assert ((gradients.mean(dim=0) - expected).abs() < 4 * error + 1e-6).all()


@each("estimator")
def test_the_same_step_gives_the_same_estimate_and_no_state_is_lost(config: Path) -> None:
    toy = Toy(lambda theta: torch.stack([theta.square().sum(), theta.sum(), theta[0] * theta[1]]))
    one, other = toy_estimator(config), toy_estimator(config)
    estimated(one, toy, 0)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert torch.equal(estimated(one, toy, 1), estimated(other, toy, 1))


@each("loss")
def test_a_loss_is_one_finite_number_an_example_and_falls_with_the_right_score(config: Path) -> None:
    loss: Loss = call(block(config), "loss", class_counts=torch.tensor([30, 9, 1]))
    scores, targets = torch.randn(12, 3), torch.arange(12) % 3
    first = loss(scores, targets)
    assert first.shape == (12,)
    assert first.min() >= 0
    better = scores + torch.nn.functional.one_hot(targets, 3)
    assert (loss(better, targets) < first).all()
    scores = (scores * 40).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(scores, targets).sum(), scores)
    assert torch.isfinite(gradient).all()


@each("regularizer")
def test_a_penalty_falls_along_its_gradient_for_every_program(config: Path) -> None:
    if block(config)["_target_"] is None:
        pytest.skip("no penalty")
    penalty = call(block(config), "regularizer")
    for path in configs("program"):
        made = moved(program(block(path)), 0.3)
        first = penalty(made)
        assert first.shape == ()
        assert first > 0
        (gradient,) = torch.autograd.grad(first, made.theta)
        with torch.no_grad():
            made.theta -= 1e-3 * gradient / gradient.norm()
        assert penalty(made) < first


@each("optimizer")
def test_an_optimizer_descends(config: Path) -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    optimizer = bind(block(config), "optimizer")([{"params": [parameter]}])
    parameter.square().sum().backward()
    optimizer.step()
    assert parameter < 1


@each("scheduler")
def test_a_schedule_starts_at_the_full_rate_and_never_exceeds_it(config: Path) -> None:
    values = block(config)
    if values["_target_"] is None:
        pytest.skip("the rate stays as it is")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = bind(values, "scheduler")(optimizer, 20)
    rates = []
    for _ in range(20):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates[0] == 0.3
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.03


# ----------------------------------------------------------------------------------------------------------- sources

TINY = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 9))
"""


def tiny_onnx_file(path: Path) -> str:
    """Convolution, mean over the positions, linear layer; any batch of 24x16 images, nine classes."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    kind, node, info = onnx.TensorProto.FLOAT, onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Conv", ["images", "kernel"], ["maps"]),
        node("GlobalAveragePool", ["maps"], ["mean"]),
        node("Flatten", ["mean"], ["features"]),
        node("MatMul", ["features", "matrix"], ["logits"]),
    ]
    values = {"kernel": torch.randn(8, 3, 3, 3), "matrix": torch.randn(8, 9)}
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [info("images", kind, ["batch", 3, 24, 16])],
        [info("logits", kind, ["batch", 9])],
        [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in values.items()],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources")


def choices(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a user must add to a source config to run it here, with random weights of a small network."""
    weights = folder / f"{name}.safetensors"
    if name == "embedded":
        return {}
    if name == "torchvision":
        import torchvision

        save_file(torchvision.models.shufflenet_v2_x0_5().state_dict(), weights)
        return {"name": "shufflenet_v2_x0_5", "weights": str(weights), "image_size": [48, 32]}
    if name == "timm":
        timm = pytest.importorskip("timm")
        save_file(timm.create_model("test_efficientnet").state_dict(), weights)
        return {"name": "test_efficientnet", "weights": str(weights), "image_size": [48, 32]}
    if name == "module":
        (folder / "tiny_network_of_contracts.py").write_text(TINY)
        monkeypatch.syspath_prepend(folder)
        return {"target": "tiny_network_of_contracts.network", "image_size": [24, 16]}
    if name == "open_clip":
        open_clip = pytest.importorskip("open_clip")
        architecture, state = save_clip(open_clip.CLIP(**CONFIG), folder)
        return {"name": architecture, "weights": state, "class_names": ["cat", "dog", "ox"]}
    if name == "hugging_face":
        transformers = pytest.importorskip("transformers")
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        transformers.ResNetForImageClassification(config).save_pretrained(folder / name)
        return {"name": str(folder / name), "image_size": [24, 16], "mean": [0.5] * 3, "std": [0.2] * 3}
    if name == "onnx":
        return {"path": tiny_onnx_file(folder / "tiny.onnx")}
    if name == "ensemble":
        (folder / "tiny_network_of_contracts.py").write_text(TINY)
        monkeypatch.syspath_prepend(folder)
        sizes = {"a": (24, 16), "b": (20, 30)}
        return {"members": {key: module_source("tiny_network_of_contracts.network", sizes[key]) for key in sizes}}
    pytest.fail(f"source/{name}.yaml: say here how it is built from random weights")


@pytest.fixture(params=["plain", "prepared"])
def source(
    request: pytest.FixtureRequest, config: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SourceModel]:
    torch.manual_seed(0)
    if request.param == "prepared" and "prepare" not in OmegaConf.load(config):
        pytest.skip("cannot be rewritten")
    if config.stem in SERVICES:
        script, chosen = SERVICES[config.stem]
        values = block(config)
        with serving(script) as stub:
            here = {
                "url": stub.url,
                "encoding": "png",
                "jpeg_quality": 90,
                "image_size": list(SIZE),
                "classes": list(LABELS),
            }
            yield call({**values, **here, "adapter": {**values["adapter"], **chosen}}, "source")
        return
    made = call({**block(config), **choices(config.stem, folder, monkeypatch)}, "source")
    yield made if request.param == "plain" else PreparedSource(made, "float32")


def images_for(made: SourceModel, count: int = 3) -> Tensor:
    return torch.rand(count, 3, *made.spec.image_size)


def used(made: SourceModel) -> None:
    """Asks, and lets the gradient flow where there is one."""
    answer = made(images_for(made).requires_grad_())[:, 0].sum()
    assert answer.requires_grad == made.spec.differentiable
    if made.spec.differentiable:
        answer.backward()


@each("source")
def test_a_source_is_frozen_and_in_evaluation_mode_for_life(config: Path, source: SourceModel) -> None:
    assert not any(parameter.requires_grad for parameter in source.parameters())
    before, answers = fingerprint(source), source(images_for(source, 1) * 0 + 0.3)
    for wrapper in (source, nn.Sequential(source)):
        wrapper.train()
        assert not any(module.training for module in source.modules())
        used(source)
    assert fingerprint(source) == before  # BatchNorm statistics and batch counters included
    assert all(parameter.grad is None for parameter in source.parameters())
    torch.testing.assert_close(source(images_for(source, 1) * 0 + 0.3), answers)


@each("source")
def test_a_source_answers_with_log_probabilities_of_its_classes(config: Path, source: SourceModel) -> None:
    log_probs = source(images_for(source))
    assert log_probs.shape == (3, source.spec.num_classes)
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.double().exp().sum(1), torch.ones(3).double(), atol=1e-5, rtol=0)
    assert all(isinstance(name, str) for name in source.spec.class_names)


@each("source")
def test_the_answer_to_an_image_does_not_depend_on_its_batch(config: Path, source: SourceModel) -> None:
    images = images_for(source)
    torch.testing.assert_close(source(images)[1:2], source(images[1:2]), atol=1e-4, rtol=1e-4)


@each("source")
def test_a_differentiable_source_passes_the_gradient_to_the_pixels(config: Path, source: SourceModel) -> None:
    if not source.spec.differentiable:
        pytest.skip("gives scores only")
    images = images_for(source).requires_grad_()
    source(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.shape == images.shape
    assert images.grad.abs().sum() > 0


@each("source")
def test_a_program_learns_around_a_source(config: Path, source: SourceModel) -> None:
    task = TaskSpec("toy", ("a", "b"), (10, 8))
    program, mapping = FullProgram(source.spec.image_size, resolution=2), LinearMapping(source.spec.num_classes, 2)
    encoding = source.encoding if isinstance(source, RemoteSource) else "float"
    seen = source if source.spec.differentiable else BlackBox(source, Ledger(None, "run"), encoding=encoding)
    model, images = ReprogrammedClassifier(program, seen, mapping, task), torch.rand(2, 3, 10, 8)
    objective = BatchObjective(model, CrossEntropy(), images, torch.tensor([0, 1]), torch.ones(2), torch.arange(2))
    estimator = Backprop() if source.spec.differentiable else TwoSided(num_directions=4)
    surrogate = estimator.step(objective, StepKey(0, 0, 0)).surrogate
    (gradient,) = torch.autograd.grad(surrogate, program.theta)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


@each("source")
def test_the_fingerprint_does_not_change_by_use(config: Path, source: SourceModel) -> None:
    before = source.fingerprint
    used(source)
    assert source.fingerprint == before
    assert len(before) == 64


# ------------------------------------------------------------------------------------------------------------ access

HIDING = [path for path in configs("access") if block(path)["_target_"] is not None]
each_hiding = pytest.mark.parametrize("config", HIDING, ids=lambda path: path.stem)


def hidden(config: Path, ledger: Ledger, **choices: Any) -> SourceModel:
    source = embedded_source()
    made: SourceModel = call({**block(config), **choices}, "access", source=source, ledger=ledger, priced=False)
    return made


@each_hiding
def test_what_is_hidden_answers_without_a_graph_and_is_frozen(config: Path) -> None:
    made = hidden(config, Ledger(None, "run"))
    images = images_for(made).requires_grad_()
    log_probs = made(images)
    assert not log_probs.requires_grad
    torch.testing.assert_close(log_probs, embedded_source()(images).detach())
    assert (made.spec.differentiable, made.spec.feature_dim) == (False, None)
    assert made.spec.class_names == embedded_source().spec.class_names
    assert made.fingerprint == embedded_source().fingerprint
    made.train()
    assert not any(module.training for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())


@each_hiding
def test_what_is_hidden_counts_by_purpose_and_stops_at_the_budget(config: Path) -> None:
    made = hidden(config, Ledger(None, "run", budget=5), store="off")
    with made.asked_for("validation"):
        made(images_for(made, 2))
    made(images_for(made, 1))
    queries = made.queries()
    assert queries is not None
    assert (queries["validation"], queries["other"], sum(queries.values())) == (2, 1, 3)
    with pytest.raises(QueryBudgetExceeded):
        made(images_for(made, 3))
    assert made.queries() == queries
    assert made.uncertain == 0
