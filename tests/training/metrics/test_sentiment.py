"""Sentiment as a number: the metrics of the CMU-MOSI literature, against figures computed by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from plait.training.data.labels import REGRESSION
from plait.training.metrics.classification import Metrics

TRUTH = np.array([-3.0, -1.2, -0.4, 0.0, 0.0, 0.6, 1.8, 3.0])
FOUND = np.array([-3.6, 0.1, -0.2, -0.1, 0.3, 1.4, 2.6, 2.2])


def measured(*names: str) -> dict[str, float]:
    return Metrics(names, REGRESSION).score(TRUTH, FOUND)


def test_both_conventions_of_two_classes() -> None:
    """Over all rows two are wrong (-1.2 and one of the zeros), over those that are not neutral one of six."""
    found = measured("acc_2", "acc_2_nonzero")
    assert found == {"acc_2": pytest.approx(6 / 8), "acc_2_nonzero": pytest.approx(5 / 6)}


def test_f1_in_both_conventions() -> None:
    found, kept = measured("f1_2", "f1_2_nonzero"), TRUTH != 0
    assert found["f1_2"] == pytest.approx(f1_score(TRUTH >= 0, FOUND >= 0, average="weighted"))
    assert found["f1_2_nonzero"] == pytest.approx(f1_score(TRUTH[kept] > 0, FOUND[kept] > 0, average="weighted"))


def test_classes_by_rounding() -> None:
    """In seven: -3 | -1 | 0 | 0 | 0 | 1 | 2 | 3 against -3 | 0 | 0 | 0 | 0 | 1 | 3 | 2; in five 2, 2, 3 become one."""
    found = measured("acc_5", "acc_7")
    assert found == {"acc_7": pytest.approx(5 / 8), "acc_5": pytest.approx(7 / 8)}


def test_neutral_rows_alone_have_no_polarity() -> None:
    assert np.isnan(Metrics(["acc_2_nonzero"], REGRESSION).score(np.zeros(3), np.ones(3))["acc_2_nonzero"])


def test_beside_error_and_correlation() -> None:
    found = measured("mae", "pearson")
    assert found["mae"] == pytest.approx(np.abs(TRUTH - FOUND).mean())
    assert found["pearson"] == pytest.approx(np.corrcoef(TRUTH, FOUND)[0, 1])
