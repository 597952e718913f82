"""The demo's figures: numbers that are not there are null, not invented."""

import json
import math

import numpy as np
import pytest
from tests.deploy.demo.reports import small_report

from tidemill.deploy.demo.report import bucket_quantile, ends_of, quantiles_ms
from tidemill.monitor.ledger import Account

KEYS = {
    "kafka",
    "decisions",
    "feedback",
    "examples",
    "ledger_balanced",
    "duplicates",
    "models",
    "months",
    "events_per_second",
    "decision_ms",
    "close_to_example_s",
    "publish_to_swap_s",
    "wall_s",
}


@pytest.mark.parametrize(
    ("changes", "is_sound"),
    [
        ({}, True),
        ({"ledger_balanced": False}, False),
        ({"duplicates": 1}, False),
        ({"models": [{"promoted": True}], "months": []}, False),
        ({"models": [{"promoted": True}]}, True),
    ],
)
def test_a_run_that_lost_doubled_or_ignored_something_is_not_sound(
    changes: dict[str, object], is_sound: bool
) -> None:
    """Its exit status is what a machine believes."""
    assert small_report(**changes).is_sound is is_sound


def test_the_report_has_the_keys_that_were_promised_and_is_strict_json() -> None:
    """Others read it with parsers that refuse NaN."""
    text = json.dumps(small_report().to_json(), allow_nan=False)
    found = json.loads(text)
    assert set(found) >= KEYS
    assert found["months"][0]["auc"] is None
    assert set(found["months"][0]) == {
        "month",
        "decisions_by_model",
        "log_loss",
        "base_log_loss",
        "auc",
        "online_log_loss",
        "batch_log_loss",
    }
    assert found["models"][0]["metrics"] == {"auc": None}


@pytest.mark.parametrize(
    ("counts", "share", "quantile"),
    [
        ({1.0: 0, math.inf: 0}, 0.5, None),
        ({1.0: 10, 2.0: 20, math.inf: 20}, 0.5, 1.0),
        ({1.0: 10, 2.0: 20, math.inf: 20}, 0.75, 1.5),
        ({1.0: 0, math.inf: 5}, 0.99, 1.0),
    ],
)
def test_quantiles_come_from_the_buckets_of_a_histogram(
    counts: dict[float, int], share: float, quantile: float | None
) -> None:
    """All that a finished process leaves behind is its histogram."""
    assert bucket_quantile(counts, share) == quantile


def test_milliseconds_come_from_seconds() -> None:
    """No decision, no figure."""
    assert quantiles_ms([]) == {"p50": None, "p99": None}
    found = quantiles_ms(list(np.linspace(0.001, 0.101, 101)))
    assert found["p50"] == pytest.approx(51.0)
    assert found["p99"] == pytest.approx(100.0)


def test_ends_are_added_over_partitions() -> None:
    """The table is about the loop, not about its partitions."""
    accounts = [
        Account(
            loop="l",
            log=log,
            partition=partition,
            read=5,
            ends={"labeled": 3, "late": 1},
            open=1,
            twice=0,
            lost=0,
        )
        for log in ("decisions", "feedback")
        for partition in (0, 1)
    ]
    assert ends_of(accounts, "decisions") == {"labeled": 6, "late": 2, "open": 2}
