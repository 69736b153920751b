"""Two small tasks that come inside scikit-learn, so they need no download."""

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits

from reprogram.data.base import Table, TargetData, in_memory
from reprogram.data.embedding import feature_keys, feature_reader, feature_support
from reprogram.data.pixels import stack_to_images


class BreastCancerData(TargetData):
    """Wisconsin diagnostic breast cancer: 569 fine-needle aspirates, 30 features of their cell nuclei, benign or not.

    Split 60 / 20 / 20, stratified by class. The features become a grid of gray squares (`reprogram.data.embedding`).

    Args:
        cell: Side (pixels) of the square that shows one feature.
        private: Whether no target pixel may leave this machine.
    """

    def __init__(
        self,
        cell: int = 4,
        private: bool = False,
    ) -> None:
        self.cell = cell
        self.private = private

    def table(self) -> Table:
        """Reads the table."""
        features, labels = load_breast_cancer(return_X_y=True)
        targets = 1 - labels.astype(np.int64)  # there 0 is malignant; here the second class is the positive one
        return Table(
            name="breast_cancer",
            class_names=("benign", "malignant"),
            targets=targets,
            ids=[str(row) for row in range(len(targets))],
            read=feature_reader(features, self.cell),
            keys=feature_keys(features),
            val_fraction=0.2,
            support=feature_support(features.shape[1], self.cell),
            private=self.private,
            licence="CC BY 4.0",
            citation="Street, Wolberg, Mangasarian, Nuclear feature extraction for breast tumor diagnosis, 1993 "
            "(UCI Machine Learning Repository)",
        )


class SklearnDigitsData(TargetData):
    """1,797 handwritten digits of 8 x 8 pixels, split 60 / 20 / 20, stratified by class.

    The writers are not named, so one writer can be in two splits.

    Args:
        private: Whether no target pixel may leave this machine.
    """

    def __init__(
        self,
        private: bool = False,
    ) -> None:
        self.private = private

    def table(self) -> Table:
        """Reads the images."""
        pixels, labels = load_digits(return_X_y=True)
        targets = labels.astype(np.int64)
        images = stack_to_images(pixels.reshape(-1, 8, 8) / 16.0)  # stored as counts 0..16
        return Table(
            name="digits",
            class_names=tuple("0123456789"),
            targets=targets,
            ids=[str(row) for row in range(len(targets))],
            read=in_memory(images),
            val_fraction=0.2,
            private=self.private,
            licence="CC BY 4.0",
            citation="Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, 1998 "
            "(UCI Machine Learning Repository)",
        )
