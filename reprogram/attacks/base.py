"""The interface of every attack, and what is refused."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from reprogram.attacks.questions import Questions
from reprogram.attacks.victim import Victim
from reprogram.errors import ConfigError
from reprogram.types import SourceSpec


class GradientAttack(ABC):
    """Follows the gradient of a white box: all images at once, at each of several strengths."""

    name: str
    strengths: list[float]

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, labels: Tensor, strength: float, batch_size: int) -> Tensor:
        """Changes images that are right so that they are taken for something else, so many at a time.

        Shapes:
            images: [B, C, h, w] in [0, 1]; labels: [B].
            -> [B, C, h, w] in [0, 1], no pixel further than ``strength`` from where it was.
        """


class QueryAttack(ABC):
    """Asks a black box about one image after the other, so often and no more."""

    name: str
    max_queries: int

    @abstractmethod
    def search(self, questions: Questions, image: Tensor, label: int, key: int) -> None:
        """Asks about changed images until ``questions`` ends the search, or there is nothing left to try.

        Args:
            questions: Asks the victim, counts, and raises ``Ended``.
            image: [C, h, w] in [0, 1], which is right before.
            label: Its class.
            key: Tells the image from others: random numbers are a function of it and the seed.
        """


def expect_shown(attack: GradientAttack | QueryAttack, source: SourceSpec) -> None:
    """Refuses a source that does not show what the attack follows.

    Raises:
        ConfigError: If a gradient is wanted where there is none, or scores of a source that gives labels alone.
    """
    if isinstance(attack, GradientAttack) and not source.differentiable:
        raise ConfigError(
            f"attack={attack.name}: expected a source that shows its gradient, got {source.name}, which is a "
            "black box or has none; choose attack=square, zoo or one_pixel"
        )
    if isinstance(attack, QueryAttack) and not source.scores:
        raise ConfigError(
            f"attack={attack.name}: expected a source that gives scores, got {source.name}: labels alone; no attack "
            "here does without scores"
        )


def expect_strengths(name: str, strengths: Sequence[float]) -> list[float]:
    """Refuses strengths that are no part of the pixel range.

    Raises:
        ConfigError: If there is none, or one is outside (0, 1].
    """
    if not strengths or not all(0 < strength <= 1 for strength in strengths):
        raise ConfigError(f"{name}: expected numbers in (0, 1], of a pixel range of 0 to 1, got {list(strengths)}")
    return sorted(set(strengths))


def expect_at_least(name: str, value: int, least: int) -> int:
    """Refuses a count that is too small.

    Raises:
        ConfigError: If it is.
    """
    if value < least:
        raise ConfigError(f"{name}: expected a whole number >= {least}, got {value}")
    return value
