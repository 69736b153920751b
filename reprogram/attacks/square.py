"""Square: random squares of extreme colours, kept where they help."""

import numpy as np
from torch import Tensor

from reprogram.attacks import library
from reprogram.attacks.base import QueryAttack, expect_at_least, expect_strengths
from reprogram.attacks.questions import Questions
from reprogram.errors import ConfigError


class Square(QueryAttack):
    """Adds squares at random places to vertical stripes, every pixel at the edge of the ball around the image.

    A square is kept where it lowers the margin between the true class and the best other one. Squares shrink as queries
    are used up.

    Args:
        strength: Largest change of a pixel, in (0, 1].
        max_queries: For each image, >= 1; the schedule of the squares follows from it.
        first_part: Of the image that the first squares cover, in (0, 1].
        seed: Of the squares.

    Raises:
        ConfigError: If a number is out of range, or ART is missing.

    Reference:
        Square Attack: a query-efficient black-box adversarial attack via random search, Andriushchenko et al., ECCV
        2020, arXiv:1912.00049; as in ART, whose repeated questions are answered from memory: one query a square.
        Differences: ART's squares never touch the last row and column, and must be smaller than the image's shorter
        side, so that ``first_part`` is lowered for narrow images.
    """

    name = "square"

    def __init__(self, strength: float, max_queries: int = 1000, first_part: float = 0.8, seed: int = 0) -> None:
        (self.strength,) = expect_strengths("attack.strength", [strength])
        self.max_queries = expect_at_least("attack.max_queries", max_queries, 1)
        if not 0 < first_part <= 1:
            raise ConfigError(f"attack.first_part: expected a number in (0, 1], got {first_part}")
        self.first_part, self.seed = first_part, seed
        library.part("attacks.evasion", self.name)

    def search(self, questions: Questions, image: Tensor, label: int, key: int) -> None:
        """See ``QueryAttack``."""
        _, height, width = image.shape
        shortest = min(height, width)
        if shortest < 2:
            raise ConfigError(f"attack=square: expected images of 2 x 2 pixels or more, got {height} x {width}")
        attack = library.part("attacks.evasion", self.name).SquareAttack(
            library.black_box(questions, image, self.name),
            eps=self.strength,
            max_iter=self.max_queries,  # the first of them goes to the stripes
            p_init=min(self.first_part, (shortest - 1) ** 2 / (height * width)),
            verbose=False,
        )
        target = np.eye(questions.spec.num_classes, dtype=np.float32)[[label]]
        with library.seeded(self.seed, key):
            attack.generate(image[None].cpu().numpy(), target)
