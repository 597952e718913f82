"""The loop that `tidemill init` writes gets a model that decides, from its first decision on."""

import random
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from tidemill.cli.commands.loop import TEMPLATE
from tidemill.deploy.sandbox.history import PastEvent
from tidemill.deploy.sandbox.sandbox import Sandbox, SandboxReport
from tidemill.schemas.logs import DECISIONS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.loop_file import load_loop
from tidemill.serving.policies.policies import policy_of

pytestmark = pytest.mark.slow

START = datetime(2026, 3, 1, tzinfo=UTC)
CLICKS = {"DE": 0.6, "PT": 0.01}
"""How likely a banner that is shown is clicked. The threshold of the template is 0.1."""


def history(loop: Loop, decisions: int) -> list[PastEvent]:
    """Return what a service without a model logs: the default, explored, and the clicks."""
    draw, policy, events = random.Random(3), policy_of(loop), []
    for number in range(decisions):
        at, id, country = START + timedelta(minutes=number), f"d{number}", draw.choice(["DE", "PT"])
        (action, _, propensity, _), is_explored = policy.without_model(
            loop.decision.default, id.encode()
        )
        source = "explore" if is_explored else "default"
        fields: dict[str, object] = {"id": id, "at": at, "action": action, "source": source}
        fields |= {"propensity": propensity, "policy_version": 1, "loop_version": loop.version}
        fields |= {"features": {"country": country, "visits": number % 7, "age": None}}
        events.append(PastEvent(at=at, log=DECISIONS, key=id, fields=fields))
        if action and draw.random() < CLICKS[country]:
            clicked = at + timedelta(minutes=1)
            given: dict[str, object] = {"id": f"{id}/c", "decision_id": id, "at": clicked}
            log = loop.feedback["clicked"].log
            fed = given | {"values": {}}
            events.append(PastEvent(at=clicked, log=log, key=id, fields=fed, kind="clicked"))
    return sorted(events, key=lambda event: event.at)


def played(loop: Loop, folder: Path, decisions: int) -> SandboxReport:
    """Return what *loop* learns from that many decisions."""
    return Sandbox(loop, folder).play(history(loop, decisions))


def template(**policy: object) -> Loop:
    """Return the loop of the template, with changes to its policy."""
    loop = load_loop(Path(str(files("tidemill.cli").joinpath(TEMPLATE))))
    return loop.model_copy(update={"policy": loop.policy.model_copy(update=policy)})


def test_the_loop_of_init_is_decided_by_a_model_after_some_thousand_decisions(
    tmp_path: Path,
) -> None:
    """A banner that is hidden by default is shown often enough to learn who clicks it."""
    report = played(template(), tmp_path, 16_000)
    assert report.live is not None, [model.reason for model in report.models]


def test_without_its_line_on_exploration_it_never_is(tmp_path: Path) -> None:
    """The banner is never shown, and every label is negative: it was so, without a word."""
    report = played(template(epsilon=0.0), tmp_path, 4_000)
    assert report.live is None
