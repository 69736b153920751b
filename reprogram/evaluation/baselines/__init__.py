"""What a reprogrammed classifier must be seen beside: the same data, without a learned program.

A new baseline is a function of a ``Setting`` in the file of its kind, and a row in ``table.py``.
"""

from reprogram.evaluation.baselines.claims import missing
from reprogram.evaluation.baselines.fine_tuning import FineTuning
from reprogram.evaluation.baselines.setting import Setting
from reprogram.evaluation.baselines.table import Baselines

__all__ = ["Baselines", "FineTuning", "Setting", "missing"]
