"""The one-pixel attack: differential evolution looks for the place and the colour."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import differential_evolution
from torch import Tensor

from reprogram.attacks.base import QueryAttack, expect_at_least
from reprogram.attacks.questions import Questions

Floats = NDArray[np.float64]

MIDDLE, SPREAD = 128.0, 127.0  # of the first colours
DIFFERENTIAL_WEIGHT = 0.5


class OnePixel(QueryAttack):
    """Sets a few pixels to colours that are found by differential evolution, and leaves all others as they are.

    A candidate is (row, column, colour) for each pixel, the colour in whole 8-bit steps; its worth is the log-score of
    the true class. First places are uniform, first colours N(128, 127); a child is x_a + 0.5 (x_b - x_c), and takes its
    parent's place where it is as good.

    SciPy's evolution, not ART's ``PixelAttack``: there the population is 400 whatever the budget, so that some hundred
    queries would be blind search, children grow from the best candidate, and random numbers are NumPy's global ones.

    Args:
        pixels: How many may change, >= 1; two may fall on the same place.
        population: Candidates of a generation, >= 5.
        max_queries: For each image, >= 1.
        seed: Of the search.

    Raises:
        ConfigError: If a number is too small.

    Reference:
        One Pixel Attack for Fooling Deep Neural Networks, Su, Vargas, Sakurai, IEEE TEVC 2019, arXiv:1710.08864.
        Differences: it ends at the first success, not at a score of 5 %; what leaves the image is drawn anew.
    """

    name = "one_pixel"

    def __init__(self, pixels: int = 1, population: int = 400, max_queries: int = 2000, seed: int = 0) -> None:
        self.pixels = expect_at_least("attack.pixels", pixels, 1)
        self.population = expect_at_least("attack.population", population, 5)
        self.max_queries = expect_at_least("attack.max_queries", max_queries, 1)
        self.seed = seed

    def search(self, questions: Questions, image: Tensor, label: int, key: int) -> None:
        """See ``QueryAttack``."""
        channels, height, width = image.shape
        random = np.random.default_rng((self.seed, key))
        bounds = [(0, height - 1), (0, width - 1), *[(0, 255)] * channels] * self.pixels

        def worth(candidates: Floats) -> Floats:
            scores = questions(self._painted(image, candidates.T))
            found: Floats = scores[:, label].double().cpu().numpy()
            return found

        differential_evolution(
            worth,
            bounds,
            strategy="rand1bin",
            maxiter=self.max_queries,  # generations: questions end the search
            mutation=DIFFERENTIAL_WEIGHT,
            recombination=1,
            atol=-1,  # nor does it end where all are alike
            seed=random,
            polish=False,
            init=self._first(random, bounds, channels),
            updating="deferred",
            vectorized=True,
        )

    def _first(self, random: np.random.Generator, bounds: list[tuple[int, int]], channels: int) -> Floats:
        """The first generation: [population, pixels * (2 + channels)]."""
        lowest, highest = np.array(bounds, dtype=np.float64).T
        drawn = random.uniform(lowest, highest, (self.population, len(bounds)))
        colours = np.arange(len(bounds)) % (2 + channels) >= 2
        drawn[:, colours] = random.normal(MIDDLE, SPREAD, (self.population, colours.sum()))
        return drawn.clip(lowest, highest)

    def _painted(self, image: Tensor, candidates: Floats) -> Tensor:
        """The image with the pixels of each candidate: [B, pixels * (2 + C)] -> [B, C, h, w]."""
        numbers = torch.from_numpy(candidates.round()).to(image.device).view(len(candidates), self.pixels, -1)
        images, rows = image.repeat(len(candidates), 1, 1, 1), torch.arange(len(candidates))
        for pixel in numbers.unbind(dim=1):
            row, column = pixel[:, :2].long().T
            images[rows, :, row, column] = (pixel[:, 2:] / 255).to(images)
        return images
