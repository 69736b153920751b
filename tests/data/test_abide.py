"""ABIDE from a local file, and from nilearn, which is replaced by a stub: nothing is fetched here."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from reprogram.data.abide import AbideData, correlation_triangle
from reprogram.data.protocols import LeaveOneOut
from reprogram.data.task import load_task
from reprogram.errors import ConfigError, DataError

pd = pytest.importorskip("pandas")  # nilearn's tables

SUBJECTS = 12
SERIES = np.random.default_rng(0).normal(size=(SUBJECTS, 40, 5))
SERIES[1, :, 3] = 7.1  # a constant region


def phenotypes() -> Any:
    rows = range(SUBJECTS)
    return pd.DataFrame(
        {
            "FILE_ID": [f"Pitt_{50003 + row:07d}" for row in rows],
            "SITE_ID": ["PITT" if row < 6 else "NYU" for row in rows],
            "AGE_AT_SCAN": [10.5 + row for row in rows],
            "SEX": [1 + row % 3 // 2 for row in rows],
            "DX_GROUP": [1 + row % 2 for row in rows],
            "func_mean_fd": [0.1 * row if row else float("nan") for row in rows],
        }
    )


Fetch = Callable[..., dict[str, Any]]


def install(monkeypatch: pytest.MonkeyPatch, fetch: Fetch) -> None:
    stub = ModuleType("nilearn.datasets")
    stub.fetch_abide_pcp = fetch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nilearn", ModuleType("nilearn"))
    monkeypatch.setitem(sys.modules, "nilearn.datasets", stub)


def fetching(calls: list[dict[str, Any]], table: Any, series: Any = SERIES) -> Fetch:
    def fetch_abide_pcp(**arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        (Path(arguments["data_dir"]) / "ABIDE_pcp").mkdir(exist_ok=True)
        return {"description": "ABIDE", "phenotypic": table, "rois_cc200": list(series)}

    return fetch_abide_pcp


def test_correlations_are_pearsons_and_zero_for_a_constant_region() -> None:
    expected = np.corrcoef(SERIES[0], rowvar=False)[np.triu_indices(5, k=1)]
    np.testing.assert_allclose(correlation_triangle(SERIES[0]), expected, atol=1e-12)
    flat = correlation_triangle(SERIES[1])
    constant = [3 in pair for pair in zip(*np.triu_indices(5, k=1), strict=True)]
    assert flat[constant].tolist() == [0.0] * 4
    np.testing.assert_allclose(flat[0], np.corrcoef(SERIES[1][:, :2], rowvar=False)[0, 1], atol=1e-12)


def test_what_nilearn_fetches_becomes_images_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    install(monkeypatch, fetching(calls, phenotypes()))
    table = AbideData(root=str(tmp_path), pipeline="niak", band_pass=False).table()
    assert calls == [
        {
            "data_dir": str(tmp_path),
            "pipeline": "niak",
            "derivatives": ["rois_cc200"],
            "band_pass_filtering": False,
            "global_signal_regression": True,
            "quality_checked": False,
        }
    ]
    assert table.class_names == ("control", "asd")
    assert table.targets.tolist() == [1, 0] * 6
    assert table.groups == table.ids == tuple(f"Pitt_{50003 + row:07d}" for row in range(SUBJECTS))
    assert table.attributes["site"] == ("PITT",) * 6 + ("NYU",) * 6
    assert table.attributes["age"][:2] == ("10.5", "11.5")
    assert table.attributes["sex"] == ("male", "male", "female") * 4
    assert table.attributes["mean_fd"][:3] == ("", "0.1", "0.2")
    assert table.split is None
    test = load_task(table, LeaveOneOut(value="NYU", val_fraction=0.5)).splits["test"]
    correlation = np.corrcoef(SERIES[6], rowvar=False)[1, 4]
    assert abs(int(test.images[0, 0, 1, 4]) - 127.5 * (1 + correlation)) <= 1.0
    assert not test.images[0, 0].tril().any()

    install(monkeypatch, fetching(calls, phenotypes().drop(columns="SEX")))  # would be refused if it were asked
    again = AbideData(root=str(tmp_path), pipeline="niak", band_pass=False).table()
    assert len(calls) == 1
    assert again.attributes == table.attributes


def test_each_choice_has_its_own_file_and_a_changed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, fetching([], phenotypes()))
    AbideData(root=str(tmp_path)).table()
    AbideData(root=str(tmp_path), quality_checked=True, global_signal_regression=False).table()
    files = sorted(path.name for path in (tmp_path / "ABIDE_pcp").glob("*.npz"))
    assert files == ["cpac_filt_global_rois_cc200.npz", "cpac_filt_noglobal_rois_cc200_checked.npz"]
    with (tmp_path / "ABIDE_pcp" / files[0]).open("ab") as file:
        file.write(b" ")
    with pytest.raises(DataError, match=r"cpac_filt_global_rois_cc200\.npz: expected the checksum .* delete both"):
        AbideData(root=str(tmp_path)).table()
    (tmp_path / "ABIDE_pcp" / files[0]).unlink()
    with pytest.raises(DataError, match="delete both"):
        AbideData(root=str(tmp_path)).table()


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (2, lambda values: values[:29], r"at least 30 time points, .* 1 subjects: Pitt_0050005"),
        (3, lambda values: values * 0 + 1.3, "Pitt_0050006"),
        (4, lambda values: values * float("nan"), "Pitt_0050007"),
        (5, lambda values: values[:, :4], "of 5 regions .* Pitt_0050008"),
    ],
)
def test_a_series_that_gives_no_correlations_is_refused_by_its_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int, change: Callable[[Any], Any], message: str
) -> None:
    series = list(SERIES)
    series[row] = change(series[row])
    install(monkeypatch, fetching([], phenotypes(), series))
    with pytest.raises(DataError, match=message):
        AbideData(root=str(tmp_path)).table()
    assert not list((tmp_path / "ABIDE_pcp").iterdir())


def test_phenotypes_without_what_is_needed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fetching([], phenotypes().drop(columns=["SITE_ID"])))
    with pytest.raises(DataError, match=r"columns .* \['SITE_ID'\] are missing"):
        AbideData(root=str(tmp_path)).table()
    install(monkeypatch, fetching([], phenotypes().assign(DX_GROUP=[-9999] + [1, 2] * 5 + [1])))
    with pytest.raises(DataError, match=r"DX_GROUP .* \['Pitt_0050003'\]"):
        AbideData(root=str(tmp_path)).table()


def test_without_network_or_library_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(**arguments: Any) -> dict[str, Any]:
        raise OSError("no route to host")

    install(monkeypatch, offline)
    with pytest.raises(DataError, match=r"no route to host.*Outputs/cpac/filt_global/rois_cc200/.*data\.path"):
        AbideData(root=str(tmp_path)).table()
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'reprogram\[abide\]'"):
        AbideData(root=str(tmp_path)).table()
    with pytest.raises(ConfigError, match=r"pipeline: expected one of \['ccs', 'cpac'"):
        AbideData(pipeline="css")
    with pytest.raises(ConfigError, match=r"atlas: expected one of .*'rois_cc200'"):
        AbideData(atlas="func_preproc")


def test_the_folder_is_nilearns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NILEARN_DATA", raising=False)
    assert AbideData().root == Path.home() / "nilearn_data"
    monkeypatch.setenv("NILEARN_DATA", "/shared/nilearn")
    assert AbideData().root == Path("/shared/nilearn")


def test_the_shared_file_loads_as_it_is(assets: Path) -> None:
    file = assets / "data" / "abide1_cc200_corr.npz"
    table = AbideData(path=str(file)).table()
    assert len(table.ids) == 771
    assert table.class_names == ("control", "asd")
    assert len(set(table.attributes["site"])) == 20
    assert table.ids == table.groups
    assert table.attributes["mean_fd"][0] == "0.3878468"
    assert (table.licence, table.private) == ("non-commercial research (INDI)", False)
    train = load_task(table).splits["train"]
    assert (train.ids[0], int(train.targets[0])) == ("CMU_a_0050642", 1)
    assert int(train.images[0, 0, 0, 1]) == round((1 - 23 / 127) * 127.5)  # the first correlation is -23 / 127
