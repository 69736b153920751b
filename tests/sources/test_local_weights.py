"""Weights from a local file: what fits, and what every misfit says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reprogram.errors import SourceError
from reprogram.sources.local_weights import load_local_weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return network().state_dict()


def loaded(path: Path | str) -> dict[str, torch.Tensor]:
    fresh = network()
    load_local_weights(fresh, path, "net")
    return fresh.state_dict()


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_a_state_dict_is_loaded(suffix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    found = loaded(str(path))
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_usual_wrappings_are_taken_off(wrapper: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({wrapper: state, "epoch": 3}, tmp_path / "weights.pth")
    assert torch.equal(loaded(tmp_path / "weights.pth")["0.weight"], state["0.weight"])


def test_half_precision_files_become_what_the_network_is(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(halves, tmp_path / "weights.safetensors")
    found = loaded(tmp_path / "weights.safetensors")
    assert found["0.weight"].dtype == torch.float32
    torch.testing.assert_close(found["0.weight"], halves["0.weight"].float())


def test_the_home_folder_may_be_abbreviated(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(state, tmp_path / "weights.safetensors")
    assert torch.equal(loaded("~/weights.safetensors")["0.weight"], state["0.weight"])


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_a_missing_file_names_path_and_key(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"net: expected a weights file at {tmp_path}.*source\.weights"):
        loaded(tmp_path / name)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("keep", [0, 20, -50])
def test_a_truncated_file_is_refused(suffix: str, keep: int, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError, match=rf"net: cannot read weights {path}: .*is the file complete\?"):
        loaded(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_of_something_else_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_text("<html>404 Not Found</html>")
    with pytest.raises(SourceError, match="cannot read weights"):
        loaded(path)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_ever_executed(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({**state, "trap": Trap(tmp_path / "sprung")}, tmp_path / "weights.pth")
    with pytest.raises(SourceError, match="cannot read weights"):
        loaded(tmp_path / "weights.pth")
    assert not (tmp_path / "sprung").exists()


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "weights.pth")
    with pytest.raises(SourceError, match="expected a state dict, got list"):
        loaded(tmp_path / "weights.pth")


def test_weights_of_another_network_list_what_differs(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state["extra"] = state.pop("0.weight")
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(SourceError, match=r"(?s)do not fit the network.*0\.weight.*extra"):
        loaded(tmp_path / "weights.safetensors")


def test_weights_of_another_shape_are_refused_briefly(tmp_path: Path) -> None:
    many = {f"layer_number_{index}.weight": torch.zeros(1) for index in range(500)}
    save_file(many, tmp_path / "weights.safetensors")
    with pytest.raises(SourceError, match="do not fit the network") as caught:
        loaded(tmp_path / "weights.safetensors")
    assert len(str(caught.value)) < 2000


class Versioned(nn.Linear):
    """Refuses a state in its own way, as torchvision's MNASNet does for a file without version."""

    def _load_from_state_dict(self, *_: object) -> None:
        raise ValueError("version should be set to 1 or 2")


def test_a_network_that_refuses_the_state_in_its_own_way_is_quoted(tmp_path: Path) -> None:
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(SourceError, match="version should be set"):
        load_local_weights(Versioned(2, 2), tmp_path / "weights.safetensors", "net")
