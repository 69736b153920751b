"""What is attacked gives the scores and the decision of the classifier, whatever stands between."""

import pytest
import torch
from linear_victim import LinearSource, examples, linear

from reprogram.attacks.victim import BareSource, WholeClassifier
from reprogram.data.base import Examples
from reprogram.evaluation.baselines.setting import whole


def stored(channels: int) -> Examples:
    images = torch.randint(0, 256, (130, channels, 6, 5), dtype=torch.uint8)
    return Examples(images, torch.zeros(130, dtype=torch.int64), tuple(map(str, range(130))))


@pytest.mark.parametrize("threshold", [None, 0.2, 0.7])
def test_the_largest_score_is_the_decision_and_probabilities_are_the_calibrated_ones(threshold: float | None) -> None:
    images, weight = examples(200)
    model = linear(LinearSource(2 * weight), threshold)
    model.temperature = 1.5
    victim = WholeClassifier(model)
    scores = victim(images)
    expected = model(images)
    torch.testing.assert_close(victim.probabilities(scores), expected)
    assert torch.equal(victim.decide(scores), model.decide(expected))
    assert torch.equal(scores.argmax(dim=1), model.decide(expected))
    assert 0 < scores.argmax(dim=1).double().mean() < 1
    if threshold is not None:
        assert (scores.argmax(dim=1) != expected.argmax(dim=1)).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_size_and_channels(channels: int) -> None:
    examples_ = stored(channels)
    model = linear(LinearSource(torch.randn(90)))
    found = WholeClassifier(model).images(examples_)
    assert torch.equal(found, examples_.images.float() / 255)
    torch.testing.assert_close(WholeClassifier(model)(found).exp(), model(examples_.images))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_bare_source_sees_the_whole_canvas(channels: int) -> None:
    examples_, source = stored(channels), LinearSource(torch.randn(3 * 9 * 8), (9, 8))
    victim = BareSource(source)
    found = victim.images(examples_)
    assert found.shape == (130, channels, 9, 8)
    expected = whole((examples_.images.float() / 255).expand(-1, 3, -1, -1), source)
    torch.testing.assert_close(found.expand(-1, 3, -1, -1), expected)
    torch.testing.assert_close(victim.probabilities(victim(found)), source(expected).exp())
    assert victim.spec == source.spec
