import pytest

from reprogram.errors import ConfigError
from reprogram.sweeps.space import Parameter, grid, override, read_space


def test_ranges_and_choices_nested_or_dotted():
    found = read_space(
        {
            "optimizer": {"lr": {"low": 0.001, "high": 1, "log": True}},
            "program.size": {"low": 20, "high": 36, "step": 8},
            "mapping": {"choices": ["linear", "frequency"]},
            "seed": [0, 1],
        }
    )
    assert found == [
        Parameter("optimizer.lr", None, 0.001, 1, True),
        Parameter("program.size", None, 20, 36, step=8),
        Parameter("mapping", ("linear", "frequency")),
        Parameter("seed", (0, 1)),
    ]
    assert [one.is_whole for one in found[:2]] == [False, True]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"low": 3, "high": 1}, "expected low <= high, got 3 > 1"),
        ({"low": "a", "high": 1}, "low: expected a number, got 'a'"),
        ({"low": True, "high": 1}, "low: expected a number, got True"),
        ({"low": 0, "high": float("inf")}, "high: expected a number, got inf"),
        ({"low": 0}, "high: is required"),
        ({"low": 0, "high": 1, "log": True}, "low: expected a number > 0 with log, got 0"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "expected log or step, got both"),
        ({"low": 1, "high": 2, "log": "yes"}, "log: expected true or false, got 'yes'"),
        ({"low": 1, "high": 2, "step": 0}, "step: expected a number > 0, got 0"),
        ({"low": 1, "high": 2, "choices": [1]}, "expected choices or a range, got both"),
        ({"low": 1, "hihg": 2}, "expected low, high, log, step, or choices, got hihg"),
        ({"choices": []}, "expected {low, high} or {choices: [...]}, got []"),
        (0.1, "expected {low, high} or {choices: [...]}, got 0.1"),
        ({"choices": [1, 1]}, "choices: expected each value once"),
        ({"choices": [[1, 2]]}, "choices: expected texts, numbers, true, false or null, got [1, 2]"),
    ],
)
def test_what_is_wrong_is_said(spec, message):
    with pytest.raises(ConfigError) as caught:
        read_space({"optimizer": {"lr": spec}})
    assert str(caught.value) == f"sweep.space.optimizer.lr: {message}"


def test_everything_wrong_is_said_at_once_and_an_empty_space_too():
    with pytest.raises(ConfigError) as caught:
        read_space({"a.b": {"low": 2, "high": 1}, "a": {"b": [1], "c": []}})
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "sweep.space.a.b",
        "sweep.space.a.c",
    ]
    with pytest.raises(ConfigError, match="expected at least one key"):
        read_space({})


def test_a_key_that_is_there_twice_is_refused():
    with pytest.raises(ConfigError, match=r"sweep\.space\.a\.b: is there twice"):
        read_space({"a.b": [1, 2], "a": {"b": [3]}})


def test_a_grid_is_every_combination():
    space = read_space({"a": [1, None], "b": {"low": 0.1, "high": 0.3, "step": 0.1}, "c": {"low": 5, "high": 6}})
    rows = grid(space)
    assert len(rows) == 2 * 3 * 2
    assert [row["a"] for row in rows] == [1] * 6 + [None] * 6
    assert [row["b"] for row in rows[:6]] == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    assert [row["c"] for row in rows[:4]] == [5, 6, 5, 6]
    with pytest.raises(ConfigError, match="a grid needs choices, or low, high and step"):
        grid(read_space({"a": {"low": 0.1, "high": 1}}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.05, "k=0.05"),
        (1e-7, "k=1e-07"),
        (3, "k=3"),
        (True, "k=true"),
        (None, "k=null"),
        ("linear", "k=linear"),
        ("white_box/mnist_resnet18", "k=white_box/mnist_resnet18"),
        ("a b", "k='a b'"),
        ("it's", r"k='it\'s'"),
        (r"a\b", r"k='a\b'"),
        (r"a\'b", r"k='a\\\'b'"),
        ("a\\", r"k='a\\'"),
        ("größe", "k='größe'"),
        ("3", "k='3'"),
        ("null", "k='null'"),
        ("True", "k='True'"),
    ],
)
def test_an_override_means_the_same_to_hydra(value, text):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert override("k", value) == text
    assert OverridesParser.create().parse_override(text).value() == value


def test_what_a_sweep_needs_itself_is_no_choice():
    with pytest.raises(ConfigError, match=r"sweep\.space\.callbacks\.monitor: is no choice of a search"):
        read_space({"callbacks": {"monitor": ["val/nll", "val/accuracy"]}})
