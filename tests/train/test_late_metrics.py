"""Metrics are recorded one step late, in order, and a row of failures ends the run with the cases' names."""

import numpy as np
import pytest

from mednext_jax.train.late_metrics import LateMetrics, NotFiniteError

pytestmark = pytest.mark.core


def metrics(step, skipped_in_row=0):
    return {"step": np.int32(step), "loss": np.float32(step / 4), "skipped_in_row": np.int32(skipped_in_row)}


def test_a_step_is_recorded_when_the_next_one_was_sent_off():
    rows = []
    late = LateMetrics(rows.append, ("a", "b"))
    late.put(metrics(1), [0])
    assert rows == []
    late.put(metrics(2), [1])
    assert rows == [{"step": 1, "loss": 0.25}]
    late.settle()
    late.settle()
    assert [row["step"] for row in rows] == [1, 2]


def test_the_third_step_in_a_row_that_is_not_finite_ends_it_and_names_the_last_cases():
    rows = []
    late = LateMetrics(rows.append, ("good", "bad", "worse", "unlucky"))
    for step, (case, skipped) in enumerate([(0, 0), (1, 1), (2, 2), (1, 3)], 1):
        late.put(metrics(step, skipped), [case])
    with pytest.raises(NotFiniteError) as error:
        late.put(metrics(5, 4), [3])
    said = str(error.value)
    assert "3 times in a row, up to step 4" in said and "bad, worse" in said
    assert "good" not in said and "unlucky" not in said
    assert [row["step"] for row in rows] == [1, 2, 3, 4]  # the failures are in the table
