"""Where program, source, mapping and loss meet: the losses of a batch as a function of the program."""

import pytest
import torch
from test_classifier import classifier, images

from reprogram.losses import CrossEntropy
from reprogram.objective import BatchObjective


@pytest.mark.parametrize(("sides", "most"), [(1, 2), (2, 64), (3, 4), (7, 2), (9, 64), (12, 5)])
@pytest.mark.parametrize("own", [False, True])
def test_many_points_are_the_same_as_one_after_the_other(sides: int, most: int, own: bool) -> None:
    model, targets = classifier(), torch.tensor([0, 1, 0, 1, 0])
    asked: list[int] = []
    model.source.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    model.source.at_once = lambda graph=False: most
    weights = torch.full((5,), 0.2)
    objective = BatchObjective(model, CrossEntropy(), images(torch.float32), targets, weights, torch.arange(5))
    points = torch.randn(sides, 5 if own else 1, model.program.theta.numel())
    found = objective.evaluate_at(points)
    assert sum(asked) == 5 * sides
    assert max(asked) <= most
    for side, point in enumerate(points.expand(-1, 5, -1)):
        for example, theta in enumerate(point):
            context = tuple(part[example : example + 1] for part in objective.context)
            log_probs = model.source(model.program(context, theta))
            torch.testing.assert_close(found.log_probs[side, example], log_probs[0])
            loss = CrossEntropy()(model.mapping(log_probs), targets[example : example + 1])
            torch.testing.assert_close(found.losses[side, example], loss[0])
    assert found.losses.shape == (sides, 5)


def test_placed_images_are_not_copied_for_a_point() -> None:
    model = classifier()
    given: list[torch.Tensor] = []
    model.program.register_forward_pre_hook(lambda _, args: given.append(args[0][0]))
    weights = torch.full((5,), 0.2)
    targets = torch.zeros(5, dtype=torch.int64)
    objective = BatchObjective(model, CrossEntropy(), images(torch.float32), targets, weights, torch.arange(5))
    for sides in (2, 9):
        objective.evaluate_at(torch.randn(sides, 5, model.program.theta.numel()))
    storage = objective.context[0].untyped_storage().data_ptr()
    assert {part.untyped_storage().data_ptr() for part in given} == {storage}
