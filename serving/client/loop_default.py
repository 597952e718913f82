"""What a client knows about a loop: its default, which answers if no worker does, and its types."""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from tidemill.errors import RequestError
from tidemill.serving.client.calls import check_times
from tidemill.serving.decision.items import default_among, listed_items, without_items
from tidemill.serving.decision.results import DecisionResult
from tidemill.serving.policies.choice import Action


class _DescribedItems(msgspec.Struct):
    """What a client knows about the items of a loop: the types of their features."""

    features: dict[str, str]


class LoopDefault(msgspec.Struct):
    """The default of a loop, which the client answers with if no worker does, and its types."""

    default: bool | float | str | list[str]
    policy_version: int
    loop_version: int
    features: dict[str, str] = {}
    feedback: dict[str, dict[str, str]] = {}
    items: _DescribedItems | None = None

    def check_times(self, asked: Mapping[str, object], where: str) -> None:
        """Refuse a time where the loop has none, in the features of *asked* and of its items.

        The text of the error begins with *where*.
        """
        check_times(asked["features"], self.features, f"{where}feature")
        if self.items is None or "items" not in asked:
            return
        for number, item in enumerate(cast(Sequence[Mapping[str, object]], asked["items"])):
            features = item.get("features")
            if isinstance(features, Mapping):
                check_times(features, self.items.features, f"{where}items[{number}]: feature")

    def answer(self, loop: str, asked: Mapping[str, object]) -> DecisionResult:
        """Return the decision of *loop* that no worker made: the baseline, or the default.

        Raises:
            RequestError: the baseline has another type than the default, or the request has no
                items where the loop has them, or the other way round.
        """
        action = self._action(loop, asked.get("items"), asked.get("baseline"))
        id = str(asked["id"])
        certain = 1.0 if isinstance(action, bool | str) else None  # as a worker's default
        return DecisionResult(
            *(id, action, None, certain, "fallback", None, self.policy_version, self.loop_version)
        )

    def _action(self, loop: str, items: object, baseline: object) -> Action:
        if self.items is not None:
            ids = [str(item["id"]) for item in listed_items(items)]
            return default_among(ids, baseline, is_ranking=isinstance(self.default, list))
        if items is not None:
            raise without_items("items", loop)
        if baseline is None:
            return self.default
        try:
            return msgspec.convert(baseline, type(self.default))
        except msgspec.ValidationError as error:
            raise RequestError(
                f"baseline {baseline!r:.100} is no answer of the loop: {error}",
                hint=f"send one like the default, {self.default!r}",
            ) from error
