"""What a service may send is checked in the words of its loop."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.serving.models import FEATURES, banner

from tidemill.errors import RequestError
from tidemill.serving.decision.requests import (
    MAX_BATCH,
    DecisionReader,
    DecisionRequest,
    FeedbackReader,
    FeedbackRequest,
    UnknownError,
)

READER = DecisionReader(banner())
FEEDBACK = FeedbackReader(banner())


def one(body: object) -> DecisionRequest:
    """Read *body* as JSON with one decision."""
    found = READER.read(json.dumps(body).encode())
    assert isinstance(found, DecisionRequest)
    return found


def named(request: DecisionRequest) -> dict[str, object]:
    """Return the features of *request* by name."""
    return dict(zip(banner().features, request.features, strict=True))


def refusal(body: bytes) -> RequestError:
    """Return why *body* is refused."""
    with pytest.raises(RequestError) as caught:
        READER.read(body)
    return caught.value


def test_what_is_left_out_is_filled_in() -> None:
    """The model and the log must see the same features, whoever sent them."""
    found = one({"features": FEATURES, "entity": "u1"})
    assert named(found) == {**FEATURES, "seen": None, "tags": None, "age": 30.0}
    assert (found.entity, found.id, found.at) == ("u1", None, None)


def test_features_come_in_the_order_of_the_loop_whatever_was_sent() -> None:
    """The model and the event read them by place; a default may stand before what has none."""
    loop = banner(
        features={
            "c": {"type": "int", "default": 1},
            "b": "float",
            "a": {"type": "int", "default": 2},
        }
    )
    reader = DecisionReader(loop)
    assert reader.check({"b": 3}).features == (1, 3.0, 2)
    assert reader.check({"b": 3, "a": 4, "c": 5}).features == (5, 3.0, 4)
    read = reader.read(b'{"features": {"a": 4, "b": 3}}')
    assert isinstance(read, DecisionRequest)
    assert read.features == (1, 3.0, 4)


def test_null_is_not_the_default() -> None:
    """A service that sends null knows that it does not know."""
    assert named(one({"features": {**FEATURES, "age": None}}))["age"] is None


def test_times_and_lists_are_read() -> None:
    """JSON has no times: they are texts with a zone."""
    sent = {**FEATURES, "seen": "2026-01-01T01:00:00+01:00", "tags": ["new"]}
    found = one({"features": sent, "at": "2026-01-01T00:00:00Z"})
    assert named(found)["seen"] == found.at == datetime(2026, 1, 1, tzinfo=UTC)
    assert named(found)["tags"] == ["new"]


CASES = [
    ({**FEATURES, "visits": "3"}, "feature 'visits' is str, not int"),
    ({**FEATURES, "visits": 3.0}, "feature 'visits' is float, not int"),
    ({**FEATURES, "visits": None}, "feature 'visits' is null, not int"),
    ({**FEATURES, "visits": 2**63}, "feature 'visits': Expected int"),
    ({**FEATURES, "amount": True}, "feature 'amount' is bool, not float"),
    ({**FEATURES, "member": 1}, "feature 'member' is int, not bool"),
    ({**FEATURES, "country": 3}, "feature 'country' is int, not str"),
    ({**FEATURES, "tags": "new"}, "feature 'tags' is str, not array | null"),
    ({**FEATURES, "tags": ["new", 3]}, "feature 'tags[1]' is int, not str"),
    ({**FEATURES, "seen": "today"}, "feature 'seen'"),
    ({**FEATURES, "seen": "2026-01-01T00:00:00"}, "feature 'seen'"),
    ({**FEATURES, "vists": 3}, "feature 'vists' is unknown"),
    ({"country": "c01"}, "feature 'visits' is missing"),
    ([], "the features are list, not names and values"),
]


@pytest.mark.parametrize(("features", "what"), CASES)
def test_wrong_features_are_told_by_name(features: object, what: str) -> None:
    """An engineer who knows no tidemill reads this and fixes the call."""
    error = refusal(json.dumps({"features": features}).encode())
    assert error.what.startswith(what)
    assert "country (category), visits (int)" in error.hint


@pytest.mark.parametrize(("features", "what"), CASES)
def test_wrong_features_are_told_alike_in_process(features: object, what: str) -> None:
    """The embedded client must refuse what the HTTP API refuses."""
    with pytest.raises(RequestError) as caught:
        READER.check(features)  # type: ignore[arg-type]  # some of them are wrong on purpose
    assert caught.value.what.startswith(what)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b'{"features": {"country": "\xff"}}', "the body is not JSON"),
        (b"[" * 100_000, "the body"),
        (b'{"features":' * 50_000, "the body is not JSON"),
        (b"[]", "the body is array, not an object"),
        (b"3", "the body is int, not an object"),
        (b"\xef\xbb\xbf{}", "the body starts with a byte order mark"),
        (b"\x1f\x8b\x08\x00", "the body is compressed with gzip"),
        (b'{"features": {"country": "\\ud800"}}', "a text of the body has half a surrogate pair"),
        (b'{"features": {"country": 1e400}}', "the body is not JSON"),
        (b'{"features": {"country": NaN}}', "the body is not JSON"),
        (b"{}", "field 'features' is missing"),
        (b'{"features": {}, "feature": 3}', "field 'feature' is unknown"),
        (b'{"features": {}, "id": ""}', "field 'id' is '', no id"),
        (b'{"features": {}, "id": 3}', "field 'id' is 3, no id"),
        (b'{"features": {}, "at": "noon"}', "field 'at'"),
        (b'{"features": {}, "at": "2026-01-01T00:00:00"}', "field 'at'"),
        (b'{"batch": []}', "a batch of 0 items"),
        (b'{"batch": 3}', "field 'batch' is int, not array"),
        (b'{"batch": [{}], "entity": "x"}', "field 'entity' is unknown beside a batch"),
        (b'{"batch": [3]}', "batch[0]: the item is int, not an object"),
        (b'{"batch": [{"features": 3}]}', "batch[0]: the features are int, not names and values"),
    ],
)
def test_wrong_bodies_are_told(body: bytes, what: str) -> None:
    """Whatever arrives, the answer is words and never a crash."""
    assert refusal(body).what.startswith(what)


def test_one_wrong_item_refuses_the_batch_by_its_place() -> None:
    """Half a batch decided would leave the service to find out which half."""
    items = [{"features": FEATURES}, {"features": FEATURES}, {"features": {"visits": 3}}]
    error = refusal(json.dumps({"batch": items}).encode())
    assert error.what == "batch[2]: feature 'country' is missing"


def test_a_batch_has_a_limit() -> None:
    """The event loop of a worker must not be busy with one request for long."""
    body = json.dumps({"batch": [{"features": FEATURES}] * (MAX_BATCH + 1)}).encode()
    assert refusal(body).what == "a batch of 1001 items"


def test_numpy_numbers_are_numbers_in_process() -> None:
    """Services compute features with numpy; its scalars are not Python's."""
    sent = {**FEATURES, "visits": np.int64(3), "amount": np.float32(1.5), "member": np.bool_(True)}
    assert named(READER.check(sent)) == {
        **FEATURES,
        "seen": None,
        "tags": None,
        "age": 30.0,
    }


def test_nan_in_process_is_null() -> None:
    """JSON has no NaN, so a NaN that became a value would differ between the two clients."""
    assert named(READER.check({**FEATURES, "age": math.nan}))["age"] is None
    with pytest.raises(RequestError, match="feature 'amount' is null, not float"):
        READER.check({**FEATURES, "amount": math.nan})


@pytest.mark.parametrize("amount", [math.inf, -math.inf])
def test_infinity_is_no_number(amount: float) -> None:
    """It has no JSON and spoils every mean it enters."""
    with pytest.raises(RequestError, match="feature 'amount'"):
        READER.check({**FEATURES, "amount": amount})


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"entity": 3}, "entity"),
        ({"id": 3}, "id"),
        ({"id": ""}, "id"),
        ({"at": datetime(2026, 1, 1)}, "at"),  # noqa: DTZ001  # that is the mistake
        ({"at": "2026"}, "at"),
    ],
)
def test_what_goes_with_the_features_is_checked_in_process(
    more: dict[str, object], what: str
) -> None:
    """It ends in the same events as what came over HTTP."""
    with pytest.raises(RequestError, match=what):
        READER.check(FEATURES, **more)  # type: ignore[arg-type]  # wrong on purpose


BATCHES: dict[str, list[dict[str, object]]] = {
    "plain": [{"features": FEATURES}, {"features": FEATURES, "entity": "u1", "id": "d1"}],
    "numpy": [{"features": {**FEATURES, "age": np.float64(3)}}],
    "a time": [{"features": FEATURES}, {"features": FEATURES, "at": datetime.now(UTC)}],
    "a baseline": [{"features": FEATURES, "baseline": "hide"}],
    "nothing of itself": [{"features": FEATURES, "entity": None, "id": None, "at": None}],
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_a_batch_is_checked_as_each_of_it_would_be(batch: list[dict[str, object]]) -> None:
    """Plain batches are checked at once: nobody may see a difference."""
    assert READER.check_all(batch) == [READER.check(**one) for one in batch]  # type: ignore[arg-type]


WRONG = {
    "a feature": {"features": {**FEATURES, "age": "old"}},
    "an entity": {"features": FEATURES, "entity": 7},
    "an empty id": {"features": FEATURES, "id": ""},
    "a long id": {"features": FEATURES, "id": "x" * 201},
    "a naive time": {"features": FEATURES, "at": datetime(2026, 1, 1)},  # noqa: DTZ001  # that is wrong
    "a baseline": {"features": FEATURES, "baseline": "yes"},
    "items": {"features": FEATURES, "items": []},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_one_of_a_batch_is_told_with_its_place(wrong: dict[str, object]) -> None:
    """The words are those for a request that comes alone."""
    with pytest.raises(RequestError) as alone:
        READER.check(**wrong)  # type: ignore[arg-type]
    with pytest.raises(RequestError) as caught:
        READER.check_all([{"features": FEATURES}, wrong])
    assert caught.value.what == f"batch[1]: {alone.value.what}"
    assert caught.value.hint == alone.value.hint


def test_feedback_is_read_by_its_kind() -> None:
    """Each kind has values of its own."""
    body = b'{"decision_id": "d", "kind": "clicked", "values": {"seconds": 3, "page": "x"}}'
    found = FEEDBACK.read(body)
    assert found == FeedbackRequest("d", "clicked", {"seconds": 3.0, "page": "x"})
    assert FEEDBACK.check("d", "clicked", {"seconds": 3, "page": "x"}) == found


def test_feedback_without_values_needs_none() -> None:
    """That it came is all it says."""
    assert FEEDBACK.read(b'{"decision_id": "d", "kind": "left"}') == FeedbackRequest(
        "d", "left", {}
    )


def test_an_unknown_kind_is_not_found() -> None:
    """404, not 400: the address is wrong, not the body."""
    with pytest.raises(UnknownError, match="no feedback 'bought'") as caught:
        FEEDBACK.read(b'{"decision_id": "d", "kind": "bought"}')
    assert "clicked, left" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"seconds": 3}, "value 'page' is missing"),
        ({"seconds": "3", "page": "x"}, "value 'seconds' is str, not float"),
        ({"seconds": 3, "page": "x", "extra": 1}, "value 'extra' is unknown"),
    ],
)
def test_wrong_values_are_told_by_name(values: dict[str, object], what: str) -> None:
    """As for features, over HTTP and in process."""
    body = {"decision_id": "d", "kind": "clicked", "values": values}
    with pytest.raises(RequestError) as over_http:
        FEEDBACK.read(json.dumps(body).encode())
    with pytest.raises(RequestError) as in_process:
        FEEDBACK.check("d", "clicked", values)
    assert over_http.value.what == in_process.value.what == what
