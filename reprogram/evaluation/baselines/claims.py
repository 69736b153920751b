"""Which baselines a result must stand beside before it may be called a success."""

from collections.abc import Iterable

ALWAYS = ("majority", "raw_linear", "mapping_only")
ONE_OF_WHITE_BOX = ("linear_probe", "feature_probe")
ONE_OF_BLACK_BOX = ("local_probe",)  # what its user has for free


def missing(names: Iterable[str], black_box: bool) -> list[str]:
    """What the baselines of a run lack for a claim; ``a or b`` where one of the two is enough.

    Args:
        names: Baselines that the run has.
        black_box: Whether it saw nothing but scores.
    """
    found, probes = set(names), ONE_OF_BLACK_BOX if black_box else ONE_OF_WHITE_BOX
    needed = [*((name,) for name in ALWAYS), probes]
    return [" or ".join(group) for group in needed if found.isdisjoint(group)]
