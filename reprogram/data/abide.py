"""ABIDE I: autism or control from the connectivity of brain regions, through nilearn (the extra ``abide``)."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reprogram.data.base import Table, TargetData
from reprogram.data.npz import NpzData
from reprogram.errors import ConfigError, DataError

CLASSES = ("control", "asd")
_PHENOTYPES = ("FILE_ID", "SITE_ID", "AGE_AT_SCAN", "SEX", "DX_GROUP", "func_mean_fd")
_PIPELINES = ("ccs", "cpac", "dparsf", "niak")
_ATLASES = tuple(f"rois_{name}" for name in ("aal", "cc200", "cc400", "dosenbach160", "ez", "ho", "tt"))
_SHORTEST = 30  # time points; below, correlations are noise. The shortest series of ABIDE I has 78
_SCALE = 127  # correlations are stored as 8 bits, as fine as the pixels they become


class AbideData(TargetData):
    """Pearson correlations of the regions of an atlas as an image; the classes are control and autism (asd).

    The image is the strict upper triangle of the matrix, the rest is free for the program, as in BAR. A constant region
    has correlation 0. Subjects are the groups; site, age, sex and ``mean_fd`` (head motion in mm) are attributes. The
    series of 50279 and 50286 are identical, so a protocol that separates them needs ``protocol.duplicates=drop``.

    What nilearn fetches is turned into correlations once, stored beside its files with a checksum, and read from there.

    Args:
        path: A local ``.npz`` file in the layout of `reprogram.data.npz` (``corr_int8``, ``labels``, ``class_names``,
            ``subject_id``, ``site``, ``mean_fd``) to use instead; ``None``: fetched.
        root: Folder of nilearn's files; ``None``: ``NILEARN_DATA``, or ``nilearn_data`` in the home folder.
        pipeline: Preprocessing: ``cpac``, ``ccs``, ``dparsf`` or ``niak``.
        atlas: Regions: ``rois_cc200``, ``rois_aal``, ``rois_cc400``, ``rois_dosenbach160``, ``rois_ez``, ``rois_ho`` or
            ``rois_tt``.
        band_pass: Whether the series are filtered to 0.01-0.1 Hz.
        global_signal_regression: Whether the mean signal is regressed out.
        quality_checked: Whether only subjects that every rater passed are used.
        private: Whether no target pixel may leave this machine.

    Raises:
        ConfigError: If the pipeline or the atlas is unknown.

    Reference:
        The autism brain imaging data exchange, Di Martino et al., Molecular Psychiatry 2014. As an image: Transfer
        Learning without Knowing (BAR), Tsai, Chen, Ho, ICML 2020, arXiv:2007.08714.
    """

    def __init__(
        self,
        path: str | None = None,
        root: str | None = None,
        pipeline: str = "cpac",
        atlas: str = "rois_cc200",
        band_pass: bool = True,
        global_signal_regression: bool = True,
        quality_checked: bool = False,
        private: bool = False,
    ) -> None:
        for key, value, known in (("pipeline", pipeline, _PIPELINES), ("atlas", atlas, _ATLASES)):
            if value not in known:
                raise ConfigError(f"{key}: expected one of {list(known)}, got '{value}'")
        self.path = path
        self.root = Path(root or os.environ.get("NILEARN_DATA") or "~/nilearn_data").expanduser()
        self.pipeline = pipeline
        self.atlas = atlas
        self.band_pass = band_pass
        self.global_signal_regression = global_signal_regression
        self.quality_checked = quality_checked
        self.private = private

    def table(self) -> Table:
        """Reads the file, made from what nilearn fetches if need be.

        Raises:
            ConfigError: If nilearn is needed and not installed.
            DataError: If the data cannot be fetched, or a file, a series or a phenotype is unusable.
        """
        return NpzData(
            path=self.path or str(self._stored()),
            name="abide",
            class_names=CLASSES,
            attributes=("mean_fd",),
            private=self.private,
            licence="non-commercial research (INDI)",
            citation="Di Martino et al., Molecular Psychiatry 2014; Craddock et al., The Neuro Bureau Preprocessing "
            "Initiative, 2013; Craddock et al. (CC200), Human Brain Mapping 2012",
        ).table()

    def _stored(self) -> Path:
        strategy = f"{'' if self.band_pass else 'no'}filt_{'' if self.global_signal_regression else 'no'}global"
        checked = "_checked" if self.quality_checked else ""
        file = self.root / "ABIDE_pcp" / f"{self.pipeline}_{strategy}_{self.atlas}{checked}.npz"
        checksum = file.with_suffix(".npz.sha256")
        if not checksum.exists():
            arrays = self._fetched(f"{self.pipeline}/{strategy}")
            draft = file.with_suffix(f".{os.getpid()}.npz")
            try:
                np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]
                draft.replace(file)
                checksum.write_text(f"{_sha256(file)}  {file.name}\n")
            except OSError as error:
                raise DataError(f"{file}: cannot be written ({error.strerror}); set data.root to a folder") from error
        if not file.exists() or not checksum.read_text().startswith(_sha256(file)):
            raise DataError(f"{file}: expected the checksum in {checksum.name}; delete both, they are made again")
        return file

    def _fetched(self, folder: str) -> dict[str, NDArray[Any]]:
        try:
            from nilearn.datasets import fetch_abide_pcp
        except ImportError as error:
            raise ConfigError("data=abide needs the library: pip install 'reprogram[abide]'; or data.path") from error
        try:
            fetched = fetch_abide_pcp(
                data_dir=str(self.root),
                pipeline=self.pipeline,
                derivatives=[self.atlas],
                band_pass_filtering=self.band_pass,
                global_signal_regression=self.global_signal_regression,
                quality_checked=self.quality_checked,
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"abide: the download failed ({error}). Fetch Phenotypic_V1_0b_preprocessed1.csv and "
                f"Outputs/{folder}/{self.atlas}/*.1D of the Preprocessed Connectomes Project by hand and save them in "
                f"{self.root}/ABIDE_pcp and {self.root}/ABIDE_pcp/{folder}, or set data.path to a local file"
            ) from error
        return _arrays(fetched["phenotypic"], fetched[self.atlas])


def correlation_triangle(series: NDArray[Any]) -> NDArray[np.float64]:
    """Pearson correlations of regions; 0 where one is constant.

    Shapes:
        series: [T, n] -> [n (n - 1) / 2], in the order of ``np.triu_indices(n, k=1)``.
    """
    varies = np.ptp(series, axis=0) > 0
    centred = (series - series.mean(axis=0)) * varies
    unit = centred / np.where(varies, np.linalg.norm(centred, axis=0), 1.0)
    correlations: NDArray[np.float64] = np.clip(unit.T @ unit, -1.0, 1.0)
    return correlations[np.triu_indices(len(correlations), k=1)]


def _arrays(phenotypes: Any, series: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of the stored file, from nilearn's table and one series [T, n] for each of its rows."""
    missing = [name for name in _PHENOTYPES if name not in phenotypes.columns]
    if missing:
        raise DataError(f"abide: expected the columns {list(_PHENOTYPES)} in the phenotypes, {missing} are missing")
    if not len(series):
        raise DataError("abide: expected subjects, got none; set data.quality_checked=false or another data.pipeline")
    columns = {name: phenotypes[name].to_numpy() for name in _PHENOTYPES}
    subjects = columns["FILE_ID"].astype(str)
    unlabelled = subjects[~np.isin(columns["DX_GROUP"], (1, 2))].tolist()
    if unlabelled:
        raise DataError(f"abide: expected DX_GROUP 1 (autism) or 2 (control), got another for {unlabelled[:5]}")
    regions = series[0].shape[-1]
    unusable = [
        str(subject)
        for subject, values in zip(subjects, series, strict=True)
        if values.shape[0] < _SHORTEST
        or values.shape[1:] != (regions,)
        or not np.ptp(values, axis=0).any()
        or not np.isfinite(values).all()
    ]
    if unusable:
        raise DataError(
            f"abide: expected finite, varying series of {regions} regions and at least {_SHORTEST} time points, got "
            f"another for {len(unusable)} subjects: {', '.join(unusable[:5])}; fetch these files again, or set "
            "data.quality_checked=true or another data.pipeline"
        )
    return {
        "corr_int8": np.stack([np.rint(_SCALE * correlation_triangle(values)).astype(np.int8) for values in series]),
        "scale": np.float32(1 / _SCALE),
        "labels": (columns["DX_GROUP"] == 1).astype(np.int64),
        "class_names": np.array(CLASSES),
        "subject_id": subjects,
        "site": columns["SITE_ID"].astype(str),
        "age": _text(columns["AGE_AT_SCAN"]),
        "sex": np.array([{1: "male", 2: "female"}.get(code, "") for code in columns["SEX"].tolist()]),
        "mean_fd": _text(columns["func_mean_fd"]),
    }


def _text(values: NDArray[Any]) -> NDArray[np.str_]:
    """Numbers as text, empty where unknown."""
    return np.array(["" if value != value else str(value) for value in values.tolist()])


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
