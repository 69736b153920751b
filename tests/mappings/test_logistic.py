"""The convex fit against scikit-learn's own predictions."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from reprogram.mappings.logistic import STRENGTHS, fit_logistic


def responses(num_classes: int, count: int = 90, num_features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(num_classes)
    targets = np.arange(count) % num_classes
    centres = generator.normal(size=(num_classes, num_features)) * 1.5
    features = (centres[targets] + generator.normal(size=(count, num_features))) * [1, 10, 0.1, 3, 1, 5] + 7
    return features, targets


def probabilities(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_probabilities_equal_those_of_scikit_learn(num_classes: int) -> None:
    features, targets = responses(num_classes)
    weight, bias, strength = fit_logistic(features, targets, num_classes, seed=4)
    assert weight.shape == (num_classes, 6)
    assert bias.shape == (num_classes,)

    standardised = (features - features.mean(0)) / features.std(0)
    search = LogisticRegressionCV(
        Cs=STRENGTHS,
        l1_ratios=(0.0,),
        cv=StratifiedKFold(3, shuffle=True, random_state=4),
        scoring="neg_log_loss",
        max_iter=300,
        use_legacy_attributes=False,
    ).fit(standardised, targets)
    assert strength == pytest.approx(float(search.C_))  # chosen alike, though in float32
    reference = LogisticRegression(C=strength, max_iter=300).fit(standardised, targets)
    np.testing.assert_allclose(
        probabilities(features @ weight.T + bias), reference.predict_proba(standardised), rtol=0, atol=1e-9
    )
    assert (np.argmax(features @ weight.T + bias, axis=1) == targets).mean() > 0.8


@pytest.mark.parametrize("num_classes", [2, 3])
def test_weights_act_as_those_of_scikit_learn(num_classes: int) -> None:
    features, targets = responses(num_classes)
    copies = np.arange(12)  # of examples with a wrong label
    features = np.concatenate([features, features[copies]])
    targets = np.concatenate([targets, (targets[copies] + 1) % num_classes])
    weights = np.concatenate([np.ones(90), np.full(12, 0.25)])
    weight, bias, strength = fit_logistic(features, targets, num_classes, seed=4, weights=weights)

    standardised = (features - features.mean(0)) / features.std(0)
    search = LogisticRegressionCV(
        Cs=STRENGTHS,
        l1_ratios=(0.0,),
        cv=StratifiedKFold(3, shuffle=True, random_state=4),
        scoring="neg_log_loss",
        max_iter=300,
        use_legacy_attributes=False,
    ).fit(standardised, targets, sample_weight=weights)
    assert strength == pytest.approx(float(search.C_))
    reference = LogisticRegression(C=strength, max_iter=300).fit(standardised, targets, sample_weight=weights)
    found = probabilities(features @ weight.T + bias)
    np.testing.assert_allclose(found, reference.predict_proba(standardised), rtol=0, atol=1e-9)
    plain = fit_logistic(features, targets, num_classes, seed=4, strength=strength)
    believed = probabilities(features @ plain.weight.T + plain.bias)
    doubted = np.arange(90, 102)  # believed less than without weights
    assert found[doubted, targets[doubted]].mean() < believed[doubted, targets[doubted]].mean() - 0.01


def test_a_feature_that_never_changes_is_harmless() -> None:
    features, targets = responses(2)
    features[:, 1] = -3.5
    weight, bias, _ = fit_logistic(features, targets, 2)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert (np.argmax(features @ weight.T + bias, axis=1) == targets).mean() > 0.8


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_a_missing_class_is_never_predicted_and_does_not_disturb_the_others(missing: int) -> None:
    features, targets = responses(3)
    present = [label for label in range(4) if label != missing]
    relabelled = np.array(present)[targets]
    weight, bias, _ = fit_logistic(features, relabelled, 4)
    scores = features @ weight.T + bias
    assert np.isfinite(scores).all()
    found = probabilities(scores)
    assert found[:, missing].max() < 1e-4
    without = fit_logistic(features, targets, 3)
    np.testing.assert_allclose(
        found[:, present] / found[:, present].sum(1, keepdims=True),
        probabilities(features @ without[0].T + without[1]),
        atol=1e-9,
    )


def test_a_missing_class_is_not_predicted_far_from_the_training_data_either() -> None:
    features, targets = responses(3)
    weight, bias, _ = fit_logistic(features, targets, 4)
    far = np.random.default_rng(0).normal(size=(2000, 6)) * features.std(0) * 100 + features.mean(0)
    assert 3 not in np.argmax(far @ weight.T + bias, axis=1)


def test_one_example_of_each_class_is_enough() -> None:
    features = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    weight, bias, _ = fit_logistic(features, np.arange(3), 3)
    assert np.argmax(features @ weight.T + bias, axis=1).tolist() == [0, 1, 2]
    standardised = (features - features.mean(0)) / features.std(0)
    reference = LogisticRegression(C=1e-2, max_iter=300).fit(standardised, np.arange(3))
    np.testing.assert_allclose(
        probabilities(features @ weight.T + bias), reference.predict_proba(standardised), atol=1e-9
    )


@pytest.mark.parametrize("sizes", [(20, 1), (20, 2), (1, 1)])
def test_a_rare_class_limits_the_folds_not_the_fit(sizes: tuple[int, int]) -> None:
    targets = np.repeat([0, 1], sizes)
    features = np.random.default_rng(0).normal(size=(len(targets), 4)) + 5 * targets[:, None]
    weight, bias, _ = fit_logistic(features, targets, 2)
    assert (np.argmax(features @ weight.T + bias, axis=1) == targets).mean() >= 0.9


def test_a_single_class_is_always_predicted() -> None:
    features = np.random.default_rng(0).normal(size=(10, 4))
    weight, bias, _ = fit_logistic(features, np.full(10, 1), 3)
    scores = features @ weight.T + bias
    assert np.isfinite(scores).all()
    assert (np.argmax(scores, axis=1) == 1).all()
    assert probabilities(scores)[:, 1].min() > 0.99


def test_the_fit_is_the_same_every_time() -> None:
    features, targets = responses(3)
    first, second = fit_logistic(features, targets, 3), fit_logistic(features, targets, 3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_given_strength_is_used_as_it_is() -> None:
    features, targets = responses(3)
    weak, strong = fit_logistic(features, targets, 3, strength=1.0), fit_logistic(features, targets, 3, strength=1e-5)
    assert (weak.strength, strong.strength) == (1.0, 1e-5)
    assert np.linalg.norm(strong.weight) < 0.1 * np.linalg.norm(weak.weight)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("count", [40, 200])
def test_one_divisor_for_all_features_is_scikit_learns_fit_rotated_or_not(num_classes: int, count: int) -> None:
    generator = np.random.default_rng(count)
    targets = np.arange(count) % num_classes
    features = (generator.normal(size=(count, 90)) + targets[:, None]) * np.linspace(0.1, 3, 90) + 7
    weight, bias, _ = fit_logistic(features, targets, num_classes, strength=1e-3, per_feature=False)
    centred = features - features.mean(0)
    scaled = centred / np.sqrt((centred**2).mean())
    reference = LogisticRegression(C=1e-3, max_iter=300).fit(scaled, targets)
    np.testing.assert_allclose(
        probabilities(features @ weight.T + bias), reference.predict_proba(scaled), rtol=0, atol=1e-4
    )
