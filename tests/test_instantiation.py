"""From a YAML block to a call: every mistake is named, all of them at once."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from reprogram.errors import ConfigError, DataError
from reprogram.instantiation import bind, call


class Thing:
    def __init__(self, size: int, rate: float = 0.5, names: Sequence[str] | None = None, on: bool = False) -> None:
        self.arguments = {"size": size, "rate": rate, "names": names, "on": on}


class Silent:
    """Has no constructor of its own."""


def modes(mode: Literal["min", "max"] = "min", anything: Any = None) -> tuple[str, Any]:
    return mode, anything


def positional(first: int, second: int, third: int = 3) -> tuple[int, int, int]:
    return first, second, third


def keywords(**values: Any) -> dict[str, Any]:
    return values


def refuses(value: int = 1) -> None:
    raise ValueError(f"{value} is not even")


def refuses_by_name() -> None:
    raise DataError("the file is gone")


def block(target: object, **values: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{target.__name__}", **values}  # type: ignore[attr-defined]


def test_values_and_facts_reach_the_target() -> None:
    made = call(block(Thing, rate=1, names=["a", "b"]), "thing", size=3, not_taken=7)
    assert made.arguments == {"size": 3, "rate": 1.0, "names": ["a", "b"], "on": False}
    assert call(block(modes, anything={"free": [1]}), "modes") == ("min", {"free": [1]})
    assert isinstance(call(block(Silent), "silent"), Silent)


def test_facts_win_over_what_a_yaml_says() -> None:
    assert call(block(Thing, size=4), "thing", size=3).arguments["size"] == 3


def test_bind_leaves_positional_arguments_to_the_caller() -> None:
    assert bind(block(positional, third=9), "optimizer")(1, 2) == (1, 2, 9)


def test_nested_blocks_are_called_first() -> None:
    made = call(block(modes, anything=block(positional, first=1, second=2)), "outer")
    assert made == ("min", (1, 2, 3))
    with pytest.raises(ConfigError, match=r"outer\.anything\.frist: no such key; did you mean outer\.anything\.first"):
        call(block(modes, anything=block(positional, frist=1)), "outer")


def test_open_ended_targets_take_any_key() -> None:
    assert call(block(keywords, a=1, b="x"), "open") == {"a": 1, "b": "x"}


def test_a_mistyped_key_gets_the_near_match() -> None:
    with pytest.raises(ConfigError, match=r"thing\.sise: no such key; did you mean thing\.size\?"):
        call(block(Thing, sise=3), "thing", size=3)
    with pytest.raises(ConfigError, match=r"thing\.zzz: no such key$"):
        call(block(Thing, zzz=3), "thing", size=3)


def test_a_required_value_is_named() -> None:
    with pytest.raises(ConfigError, match=r"thing\.size: is required; set thing\.size=\.\.\."):
        call(block(Thing, size="???"), "thing")


def test_a_missing_argument_names_the_block() -> None:
    with pytest.raises(ConfigError, match=r"^thing: .*size"):
        call(block(Thing), "thing")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "big"}, r"thing\.size: expected int, got 'big'"),
        ({"size": 1.5}, r"thing\.size: expected int, got 1\.5"),
        ({"rate": "fast"}, r"thing\.rate: expected float, got 'fast'"),
        ({"rate": None}, r"thing\.rate: expected float, got None"),
        ({"names": 3}, r"thing\.names: expected Sequence\[str\] \| None, got 3"),
        ({"size": True}, r"thing\.size: expected int, got True"),
        ({"on": "perhaps"}, r"thing\.on: expected bool, got 'perhaps'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_value_of_the_wrong_type_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(block(Thing, **{"size": 1, **values}), "thing")


def test_a_choice_that_is_none_of_a_literal_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"modes\.mode: expected .*'min', 'max'.*got 'mean'"):
        call(block(modes, mode="mean"), "modes")


def test_all_problems_come_in_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        call(block(Thing, sise=3, rate="fast", size="???"), "thing")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["thing.sise", "thing.rate", "thing.size"]


@pytest.mark.parametrize("target", ["nowhere.at.all", "reprogram.losses.NoSuchLoss", "plain", "None"])
def test_a_target_that_cannot_be_imported_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=rf"loss\._target_: cannot import '{target}'"):
        call({"_target_": target}, "loss")


def test_errors_of_the_target_become_ours_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"^source: 1 is not even$"):
        call(block(refuses), "source")
    with pytest.raises(DataError, match="the file is gone"):
        call(block(refuses_by_name), "data")


def test_third_party_targets_are_called_as_they_are() -> None:
    import torch

    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = bind({"_target_": "torch.optim.Adam", "lr": 0.3, "betas": [0.8, 0.99]}, "optimizer")([parameter])
    assert optimizer.defaults["lr"] == 0.3
    assert tuple(optimizer.defaults["betas"]) == (0.8, 0.99)
    with pytest.raises(ConfigError, match=r"optimizer\.momentun: no such key; did you mean optimizer\.momentum"):
        bind({"_target_": "torch.optim.SGD", "lr": 0.1, "momentun": 0.9}, "optimizer")
    with pytest.raises(ConfigError, match=r"optimizer: .*learning rate"):
        bind({"_target_": "torch.optim.SGD", "lr": -1.0}, "optimizer")([parameter])
