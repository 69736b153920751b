"""All baselines by name."""

import logging
from collections.abc import Sequence

import torch

from reprogram.errors import ConfigError, QueryBudgetExceeded, SourceError
from reprogram.evaluation.baselines.claims import ALWAYS
from reprogram.evaluation.baselines.linear import feature_probe, linear_probe, local_probe, raw_linear
from reprogram.evaluation.baselines.setting import Baseline, Setting
from reprogram.evaluation.baselines.untrained import majority, mapping_only
from reprogram.evaluation.predictions import Predictions

log = logging.getLogger(__name__)

TABLE: dict[str, Baseline] = {
    "majority": majority,
    "raw_linear": raw_linear,
    "mapping_only": mapping_only,
    "linear_probe": linear_probe,
    "local_probe": local_probe,
    "feature_probe": feature_probe,
    "fine_tuning": lambda setting: setting.fine_tuning(setting),
}
WHITE_BOX_ONLY = ("feature_probe", "fine_tuning")


class Baselines:
    """Computes baselines on one task; scored splits are fitted on training images alone.

    Args:
        setting: What they share.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    @property
    def queries(self) -> int:
        """Images that the source was asked about."""
        return self._setting.queries

    @staticmethod
    def chosen(names: Sequence[str] | None, black_box: bool) -> list[str]:
        """The names that were asked for; ``None``: those that a result should stand beside.

        Raises:
            ConfigError: If there is no such baseline, or in a black box one that needs more than scores.
        """
        if names is None:
            return [*ALWAYS, *(["local_probe"] if black_box else ["linear_probe", "feature_probe"])]
        unknown = [name for name in names if name not in TABLE]
        if unknown:
            raise ConfigError(f"evaluation.baselines: expected {', '.join(TABLE)}, got {unknown}")
        hidden = [name for name in names if black_box and name in WHITE_BOX_ONLY]
        if hidden:
            raise ConfigError(
                f"evaluation.baselines: expected none of {hidden} in a black box, from which only scores come back; "
                "choose local_probe"
            )
        return list(dict.fromkeys(names))

    def compute_all(self, names: Sequence[str]) -> dict[str, dict[str, Predictions]]:
        """Each of them; one that cannot be computed is left out, because it must not cost a finished run its records.

        The source may not give what it needs, the budget of a run that was cut off may not pay it, or memory be short.
        """
        found = {}
        for name in names:
            try:
                found[name] = self.compute(name)
            except (QueryBudgetExceeded, SourceError, ValueError, torch.OutOfMemoryError) as error:
                log.warning("baseline %s is left out: %s", name, error)
        return found

    def compute(self, name: str) -> dict[str, Predictions]:
        """Predictions of one baseline on ``val`` and ``test``."""
        setting = self._setting
        self.chosen([name], black_box=False)
        with setting.classifier.source.asked_for("baseline"):
            predict = TABLE[name](setting)
            return {
                split: Predictions(
                    split,
                    examples.ids,
                    examples.targets.numpy(),
                    predict(examples),
                    groups=examples.groups,
                    attributes=examples.attributes,
                )
                for split, examples in setting.data.splits.items()
                if split != "train"
            }
