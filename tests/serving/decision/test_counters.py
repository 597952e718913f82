"""Times are counted in bulk, and counted right."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.serving.decision.counters import BOUNDS_US, SOURCES, DecisionCounters

TIMES_S = st.floats(0.0, 1.0) | st.sampled_from([bound / 1e6 for bound in BOUNDS_US])


@given(st.lists(st.tuples(st.sampled_from(SOURCES), TIMES_S)))
def test_every_decision_is_in_the_first_bucket_that_holds_its_time(
    noted: list[tuple[str, float]],
) -> None:
    """A bound belongs to its bucket, as Prometheus has it."""
    counters = DecisionCounters()
    for number, (source, took_s) in enumerate(noted):
        counters.took_s[source].append(took_s)
        if number % 7 == 0:
            counters.count()
    bounds_s = [*(bound / 1e6 for bound in BOUNDS_US), float("inf")]
    buckets = [min(i for i, bound in enumerate(bounds_s) if took <= bound) for _, took in noted]
    assert counters.latency == [buckets.count(place) for place in range(len(bounds_s))]
    assert sum(counters.decisions.values()) == len(noted)
    assert abs(counters.latency_s - sum(took for _, took in noted)) < 1e-9


def test_looking_twice_counts_once() -> None:
    """Prometheus and the health page both look."""
    counters = DecisionCounters()
    counters.took_s["model"].append(1e-5)
    assert counters.decisions == counters.decisions == {**dict.fromkeys(SOURCES, 0), "model": 1}
