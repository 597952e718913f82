"""Reports of the demo, for the tests of its figures and of its tables."""

import math

from tidemill.deploy.demo.report import Month, Report


def small_report(**changes: object) -> Report:
    """Return a report of a small run."""
    plain: dict[str, object] = {
        "kafka": {"kind": "embedded", "start_s": 3.2},
        "decisions": 10,
        "feedback": 9,
        "examples": {"labeled": 9, "censored": 1},
        "ledger_balanced": True,
        "duplicates": 0,
        "models": [
            {
                "version": "lightgbm-1",
                "trained_on_rows": 9,
                "promoted": False,
                "reason": "only 2 later rows",
                "metrics": {"auc": math.nan},
            }
        ],
        "months": [Month(month="2013-01", decisions_by_model=3, log_loss=0.5, auc=math.nan)],
        "events_per_second": 1234.5,
        "decision_ms": {"p50": 0.4, "p99": 1.2},
        "close_to_example_s": {"p50": None, "p99": None},
        "publish_to_swap_s": None,
        "wall_s": 60.0,
    }
    return Report(**{**plain, **changes})  # type: ignore[arg-type]  # plain values by name
