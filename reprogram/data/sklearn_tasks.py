"""Two small tasks that come inside scikit-learn, so they need no download."""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from reprogram.data.base import SPLITS, TargetData, TaskData, pick_examples
from reprogram.data.embedding import feature_range, feature_support, features_to_images
from reprogram.data.pixels import stack_to_images
from reprogram.data.splits import plan_rows
from reprogram.types import TaskSpec


class BreastCancerData(TargetData):
    """Wisconsin diagnostic breast cancer: 569 fine-needle aspirates, 30 features of their cell nuclei, benign or not.

    Split 60 / 20 / 20, stratified by class. The features become a grid of gray squares (`reprogram.data.embedding`).

    Args:
        cell: Side (pixels) of the square that shows one feature.
        split_seed: Of the split and of the choice under a maximum.
        max_train: At most so many training examples, a stratified choice; ``None``: all.
        max_val: The same for ``val``.
        max_test: The same for ``test``.
        private: Whether no target pixel may leave this machine.
    """

    def __init__(
        self,
        cell: int = 4,
        split_seed: int = 0,
        max_train: int | None = None,
        max_val: int | None = None,
        max_test: int | None = None,
        private: bool = False,
    ) -> None:
        self.cell = cell
        self.split_seed = split_seed
        self.max_train = max_train
        self.max_val = max_val
        self.max_test = max_test
        self.private = private

    def load(self) -> TaskData:
        """Splits the table and draws its rows."""
        features, labels = load_breast_cancer(return_X_y=True)
        targets = 1 - labels.astype(np.int64)  # there 0 is malignant; here the second class is the positive one
        rows = plan_rows(
            targets,
            None,
            None,
            val_fraction=0.2,
            test_fraction=0.2,
            max_train=self.max_train,
            max_val=self.max_val,
            max_test=self.max_test,
            seed=self.split_seed,
        )
        low, high = feature_range(features[rows["train"]])
        images = features_to_images(features, low, high, self.cell)
        ids = [str(row) for row in range(len(targets))]
        return TaskData(
            spec=TaskSpec(
                name="breast_cancer",
                class_names=("benign", "malignant"),
                image_size=(images.shape[2], images.shape[3]),
                support=feature_support(features.shape[1], self.cell),
                private=self.private,
                licence="CC BY 4.0",
                citation="Street, Wolberg, Mangasarian, Nuclear feature extraction for breast tumor diagnosis, 1993 "
                "(UCI Machine Learning Repository)",
            ),
            splits={
                name: pick_examples(images[rows[name]], rows[name].tolist(), torch.from_numpy(targets), ids, None)
                for name in SPLITS
            },
        )


class SklearnDigitsData(TargetData):
    """1,797 handwritten digits of 8 x 8 pixels, split 60 / 20 / 20, stratified by class.

    The writers are not named, so one writer can be in two splits.

    Args:
        split_seed: Of the split and of the choice under a maximum.
        max_train: At most so many training examples, a stratified choice; ``None``: all.
        max_val: The same for ``val``.
        max_test: The same for ``test``.
        private: Whether no target pixel may leave this machine.
    """

    def __init__(
        self,
        split_seed: int = 0,
        max_train: int | None = None,
        max_val: int | None = None,
        max_test: int | None = None,
        private: bool = False,
    ) -> None:
        self.split_seed = split_seed
        self.max_train = max_train
        self.max_val = max_val
        self.max_test = max_test
        self.private = private

    def load(self) -> TaskData:
        """Splits the images."""
        pixels, labels = load_digits(return_X_y=True)
        targets = labels.astype(np.int64)
        rows = plan_rows(
            targets,
            None,
            None,
            val_fraction=0.2,
            test_fraction=0.2,
            max_train=self.max_train,
            max_val=self.max_val,
            max_test=self.max_test,
            seed=self.split_seed,
        )
        images = stack_to_images(pixels.reshape(-1, 8, 8) / 16.0)  # stored as counts 0..16
        ids = [str(row) for row in range(len(targets))]
        return TaskData(
            spec=TaskSpec(
                name="digits",
                class_names=tuple("0123456789"),
                image_size=(8, 8),
                private=self.private,
                licence="CC BY 4.0",
                citation="Alpaydin, Kaynak, Optical Recognition of Handwritten Digits, 1998 "
                "(UCI Machine Learning Repository)",
            ),
            splits={
                name: pick_examples(images[rows[name]], rows[name].tolist(), torch.from_numpy(targets), ids, None)
                for name in SPLITS
            },
        )
