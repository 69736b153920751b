"""The queries of one image: counted, limited, and ended by the first answer that is wrong."""

import sys

import torch
from torch import Tensor

from reprogram.attacks.victim import Victim
from reprogram.sources.base import SourceModel


class Ended(Exception):  # noqa: N818 - nothing went wrong
    """The image is taken for something else, or its queries are used up."""


class Questions(SourceModel):
    """Asks a victim on behalf of an attack on one image.

    Images go out in parts of ``at_once``; a part whose answers hold a success is paid for as a whole.

    Args:
        victim: What is attacked.
        label: Class of the image.
        clean: Log-scores [K] of the unchanged image, which are known.
        limit: Most queries, >= 1.
        size: Images of a part, >= 1.
    """

    def __init__(self, victim: Victim, label: int, clean: Tensor, limit: int, size: int = sys.maxsize) -> None:
        super().__init__()
        self.victim, self.spec = victim, victim.spec
        self.label, self.clean, self.limit, self.size = label, clean, limit, size
        self.sent = 0
        self.fooling: tuple[Tensor, Tensor] | None = None
        """The image [C, h, w] that is taken for something else, and its log-scores [K]."""

    @property
    def fingerprint(self) -> str:
        """That of the victim."""
        return self.victim.fingerprint

    def at_once(self, graph: bool = False) -> int:
        """Images of a part."""
        del graph
        return self.size

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Asks for the log-scores [B, K] of images [B, C, h, w] in [0, 1].

        Raises:
            Ended: At a success, or where the limit does not allow all of them; those that it allows are asked.
        """
        answers = []
        for part in torch.split(images, self.size):
            part = part[: self.limit - self.sent]
            if len(part):
                self.sent += len(part)
                answers.append(self.victim(part))
                wrong = (self.victim.decide(answers[-1]) != self.label).nonzero()
                if len(wrong):
                    row = int(wrong[0])
                    self.fooling = part[row].detach().cpu(), answers[-1][row].cpu()
                    raise Ended
        if sum(map(len, answers)) < len(images):
            raise Ended
        return torch.cat(answers)
