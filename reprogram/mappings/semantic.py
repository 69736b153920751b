"""Semantic label mapping: each target class takes the source classes whose names mean the most similar."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reprogram.errors import ConfigError
from reprogram.mappings.assignment import AssignmentMapping, check_room
from reprogram.mappings.base import LabelMapping, RefitSchedule
from reprogram.mappings.frequency import greedy_assignment, optimal_assignment
from reprogram.mappings.weighting import Weighting
from reprogram.sources.clip_text import class_features, expect_templates, load_clip
from reprogram.types import SourceSpec, TaskSpec

log = logging.getLogger(__name__)

NAME, WEIGHTS, TEMPLATES = "ViT-B-32", "openai", ("a photo of a {}.",)


class SemanticMapping(LabelMapping):
    """Keeps the assignment that a CLIP text tower found for the class names; never fitted, costs no query.

    Args:
        source_classes: K_s.
        target_classes: K_t.
        name: CLIP whose text tower compares the names; see ``load_clip``.
        weights: Likewise.
        templates: Prompts, each with one ``{}`` for the class name; their features are averaged.
        per_class: m, source classes for each target class; their probabilities are averaged.
        assign: ``greedy`` takes the most similar pair of names that is left again and again; ``optimal`` the
            assignment with the largest sum of similarities. Each source class is taken once.
        given: K_t lists of m source indices. A run fills them in (see ``self_contained``), so that neither it nor its
            artefact needs the text tower again; then all of the above but ``per_class`` is only a record.
        learn: See ``AssignmentMapping``.
        temperature: Likewise.

    Raises:
        ConfigError: If the source classes do not suffice, nothing is given, or the temperature is not above 0.

    Reference:
        "SemanticMap" of AutoVP, Tsao et al., ICLR 2024, arXiv:2310.08381; code IBM/AutoVP. Differences from that code:
        the most similar pair goes first, where there the target classes choose in turn, in the order of their labels;
        names stand in a prompt (``templates=["{}"]`` is theirs); probabilities are averaged, not logits; any source
        whose classes have names, not only ImageNet's. ``optimal`` is our own.
    """

    def __init__(
        self,
        source_classes: int,
        target_classes: int,
        name: str = NAME,
        weights: str = WEIGHTS,
        templates: Sequence[str] = TEMPLATES,
        per_class: int = 1,
        assign: str = "greedy",
        given: Sequence[Sequence[int]] | None = None,
        learn: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        del name, weights
        expect_templates(templates, "mapping")
        _expect_assign(assign)
        check_room(source_classes, target_classes, per_class)
        if given is None:
            raise ConfigError(
                "mapping.given: expected the assignment, which a run finds by the class names; outside of one, take "
                "SemanticMapping.self_contained or semantic_assignment"
            )
        if any(len(row) != per_class for row in given):
            raise ConfigError(
                f"mapping.given: expected {per_class} source classes for each target class, as mapping.per_class says, "
                "got another number; set mapping.given=null to have them found anew"
            )
        self.schedule = RefitSchedule(fixed=True)
        self.assigned = AssignmentMapping(
            source_classes, target_classes, "given", given=given, learn=learn, temperature=temperature
        )

    @property
    def assignment(self) -> Tensor:
        """[K_t, m] source indices."""
        return self.assigned.assignment

    @property
    def weighting(self) -> Weighting:
        """Of the m source classes."""
        return self.assigned.weighting

    def forward(self, log_probs: Tensor) -> Tensor:
        """See ``AssignmentMapping``."""
        scores: Tensor = self.assigned(log_probs)
        return scores

    @staticmethod
    def self_contained(block: dict[str, Any], source: SourceSpec, task: TaskSpec) -> dict[str, Any]:
        """The block with the assignment filled in, unless it is given.

        Raises:
            ConfigError: See ``semantic_assignment``.
            SourceError: If the weights of the text tower are neither cached nor downloadable, or do not fit.
        """
        if block.get("given") is not None:
            return block
        keys = ("name", "weights", "templates", "per_class", "assign")
        options = {key: block[key] for key in keys if key in block}
        given = semantic_assignment(source.class_names, task.class_names, **options)
        for target, row in zip(task.class_names, given, strict=True):
            log.info("mapping: %s <- %s", target, ", ".join(source.class_names[index] for index in row))
        return {**block, "given": given}


def semantic_assignment(
    source_names: Sequence[str],
    target_names: Sequence[str],
    name: str = NAME,
    weights: str = WEIGHTS,
    templates: Sequence[str] = TEMPLATES,
    per_class: int = 1,
    assign: str = "greedy",
) -> list[list[int]]:
    """Finds the source classes with the most similar names: K_t lists of m indices, the most similar first.

    Args:
        source_names: K_s names.
        target_names: K_t names.
        name: See ``SemanticMapping``, like all that follow.
        weights: Likewise.
        templates: Likewise.
        per_class: Likewise.
        assign: Likewise.

    Raises:
        ConfigError: If the classes are only numbered, the source classes do not suffice, or a choice cannot work.
        SourceError: If the weights are neither cached nor downloadable, or do not fit.
    """
    _expect_assign(assign)
    expect_templates(templates, "mapping")
    check_room(len(source_names), len(target_names), per_class)
    for whose, names in (("source", source_names), ("target", target_names)):
        if all(re.fullmatch(r"(.*/)?(class|label)_\d+", one, re.IGNORECASE) for one in names):
            raise ConfigError(
                f"mapping: a semantic mapping compares class names, but the {whose} classes are only numbered "
                f"({names[0]}, ...); give them names, or choose another mapping"
            )
    clip = load_clip(name, weights, "mapping")
    features = class_features(clip, [*source_names, *target_names], templates)
    similarity = features[: len(source_names)] @ features[len(source_names) :].T
    choose = greedy_assignment if assign == "greedy" else optimal_assignment
    # both take what is never negative, and a second table that decides ties: there is none
    chosen: list[list[int]] = choose(similarity, torch.zeros_like(similarity), per_class).tolist()
    return chosen


def _expect_assign(assign: str) -> None:
    if assign not in ("greedy", "optimal"):
        raise ConfigError(f"mapping.assign: expected greedy or optimal, got '{assign}'")
