"""An attack on all images of a choice, and what it found."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reprogram.attacks.base import GradientAttack, QueryAttack
from reprogram.attacks.questions import Ended, Questions
from reprogram.attacks.victim import Victim
from reprogram.errors import OracleError, QueryBudgetExceeded

log = logging.getLogger(__name__)

SECONDS = 30.0  # between two words about how far it is


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of N images, of which only those were attacked that were right before.

    Args:
        measure: What ``levels`` are: ``strength`` or ``queries`` (for each image).
        levels: L of them, from 0 upwards.
        scores: Log-scores of what the attack has at each level.
        images: Those of the last strength, or those that fool; all others as they were.
        fooled: For each image, whether it was right before and is not at the last level.
        queries: Asked about each image, besides the first look.
        cut_off: What ended the attack before it had come to all images; ``None``: nothing.
        reached: Rows of the images that it had come to, or that were wrong before.

    Shapes:
        scores: [L, N, K]; images: [N, C, h, w].
    """

    measure: str
    levels: Sequence[float]
    scores: Tensor
    images: Tensor
    fooled: list[bool]
    queries: list[int]
    reached: list[int]
    cut_off: BaseException | None = None

    def of_reached(self) -> "Outcome":
        """The same of the images that were reached alone."""
        rows = self.reached
        return replace(
            self,
            scores=self.scores[:, rows],
            images=self.images[rows],
            fooled=[self.fooled[row] for row in rows],
            queries=[self.queries[row] for row in rows],
            reached=list(range(len(rows))),
        )


def look(victim: Victim, images: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """Log-scores [N, K], on the CPU, of images [N, C, h, w] as they are: one query each."""
    with torch.inference_mode():
        return torch.cat([victim(part.to(device)).cpu() for part in torch.split(images, batch_size)])


def follow(
    attack: GradientAttack,
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    clean: Tensor,
    batch_size: int,
    device: torch.device,
) -> Outcome:
    """Attacks by the gradient, at each strength anew."""
    rows = (victim.decide(clean) == labels).nonzero().squeeze(1)
    scores, changed = [clean], images.clone()
    for strength in attack.strengths:
        chosen = images[rows].to(device)
        changed[rows] = attack.perturb(victim, chosen, labels[rows], strength, batch_size).cpu()
        scores.append(clean.clone().index_copy(0, rows, look(victim, changed[rows], batch_size, device)))
    fooled = (victim.decide(clean) == labels) & (victim.decide(scores[-1]) != labels)
    levels = [0.0, *attack.strengths]
    everything = list(range(len(images)))
    return Outcome("strength", levels, torch.stack(scores), changed, fooled.tolist(), [0] * len(images), everything)


def ask(
    attack: QueryAttack,
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    clean: Tensor,
    batch_size: int,
    device: torch.device,
) -> Outcome:
    """Attacks one image after the other by queries, each until it is fooled or has had its share.

    Where the oracle fails, the budget ends or somebody interrupts, what was paid for so far is the outcome.
    """
    rows = (victim.decide(clean) == labels).nonzero().squeeze(1).tolist()
    left, cut_off = list(rows), None
    changed, last = images.clone(), clean.clone()
    fooled, queries = [False] * len(images), [0] * len(images)
    said = time.monotonic()
    for position, row in enumerate(rows):
        label = int(labels[row])
        questions = Questions(victim, label, clean[row], attack.max_queries, batch_size)
        try:
            attack.search(questions, images[row].to(device), label, row)
        except Ended:
            pass
        except (OracleError, QueryBudgetExceeded, KeyboardInterrupt) as error:
            cut_off = error
            break
        left.remove(row)
        if questions.fooling is not None:
            fooling, last[row] = questions.fooling
            changed[row] = fooling[: images.shape[1]]  # a grey one may have been asked about in three channels
            fooled[row] = True
        queries[row] = questions.sent
        if time.monotonic() - said > SECONDS:
            said = time.monotonic()
            log.info("%d of %d images attacked, %d fooled", position + 1, len(rows), sum(fooled))
    levels = milestones(attack.max_queries)
    spent = torch.tensor(queries)
    scores = torch.stack([torch.where((spent <= level)[:, None], last, clean) for level in levels])
    reached = sorted(set(range(len(images))) - set(left))
    return Outcome("queries", levels, scores, changed, fooled, queries, reached, cut_off)


def milestones(most: int) -> list[float]:
    """Numbers of queries that a curve shows: 0, 1, 2, 5, 10, 20, 50, ... and the most."""
    steps = (digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5))
    return [0.0, *(float(step) for step in steps if step < most), float(most)]
