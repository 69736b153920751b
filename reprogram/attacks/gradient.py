"""Attacks that follow the gradient of the loss: one step (FGSM), or many with a projection (PGD)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reprogram.attacks import library
from reprogram.attacks.base import GradientAttack, expect_at_least, expect_strengths
from reprogram.attacks.victim import Victim
from reprogram.errors import ConfigError


class FGSM(GradientAttack):
    """One step along the sign of the gradient.

    x' = clip(x + strength * sign(grad L(x, y)), 0, 1), L the cross-entropy

    Args:
        strengths: Largest change of a pixel, each in (0, 1].

    Raises:
        ConfigError: If a strength is out of range, or ART is missing.

    Reference:
        Explaining and Harnessing Adversarial Examples, Goodfellow, Shlens, Szegedy, ICLR 2015, arXiv:1412.6572; as in
        ART. Differences: none known.
    """

    name = "fgsm"

    def __init__(self, strengths: Sequence[float]) -> None:
        self.strengths = expect_strengths("attack.strengths", strengths)
        library.part("attacks.evasion", self.name)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, strength: float, batch_size: int) -> Tensor:
        """See ``GradientAttack``."""
        evasion = library.part("attacks.evasion", self.name)
        estimator = library.white_box(victim, images, self.name)
        attack = evasion.FastGradientMethod(estimator, eps=strength, batch_size=batch_size)
        changed = attack.generate(images.cpu().numpy(), library.one_hot(labels, victim.spec.num_classes))
        return torch.from_numpy(changed).to(images)


class PGD(GradientAttack):
    """Many small steps along the sign of the gradient, each brought back into the ball around the image.

    x <- clip(project(x + step * sign(grad L(x, y))), 0, 1), from a random place in the ball

    Args:
        strengths: Largest change of a pixel, each in (0, 1].
        steps: Steps from each start, >= 1.
        step_size: Of a step, as a part of the strength, in (0, 1]; ``None``: 2.5 / steps, enough to reach any side.
        random_starts: Starts; a later one counts where it fools; 0: one, from the image itself.
        seed: Of the starts.

    Raises:
        ConfigError: If a number is out of range, or ART is missing.

    Reference:
        Towards Deep Learning Models Resistant to Adversarial Attacks, Madry et al., ICLR 2018, arXiv:1706.06083; as in
        ART. Differences: none known.
    """

    name = "pgd"

    def __init__(
        self,
        strengths: Sequence[float],
        steps: int = 20,
        step_size: float | None = None,
        random_starts: int = 1,
        seed: int = 0,
    ) -> None:
        self.strengths = expect_strengths("attack.strengths", strengths)
        self.steps = expect_at_least("attack.steps", steps, 1)
        self.random_starts = expect_at_least("attack.random_starts", random_starts, 0)
        self.step_size = min(1.0, 2.5 / steps) if step_size is None else step_size
        if not 0 < self.step_size <= 1:
            raise ConfigError(f"attack.step_size: expected a part of the strength in (0, 1], got {step_size}")
        self.seed = seed
        library.part("attacks.evasion", self.name)

    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, strength: float, batch_size: int) -> Tensor:
        """See ``GradientAttack``."""
        evasion = library.part("attacks.evasion", self.name)
        attack = evasion.ProjectedGradientDescent(
            library.white_box(victim, images, self.name),
            eps=strength,
            eps_step=self.step_size * strength,
            max_iter=self.steps,
            num_random_init=self.random_starts,
            batch_size=batch_size,
            verbose=False,
        )
        with library.seeded(self.seed):
            changed = attack.generate(images.cpu().numpy(), library.one_hot(labels, victim.spec.num_classes))
        return torch.from_numpy(changed).to(images)
