"""The client for unit tests answers as the test says and refuses what production refuses."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.deploy.explain.decided import DecidedLake, trained
from tests.serving.models import FEATURES, banner

from tidemill.errors import BrokerError, RequestError
from tidemill.testing.scripted import ScriptedClient, ScriptedTransport, ScriptError

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "test-a-service.md"
CHOICE = {"type": "choice", "actions": ["a", "b", "c"], "default": "c"}
LOOP = banner(decision=CHOICE, policy={"kind": "greedy", "epsilon": 1.0})


@pytest.fixture
def client() -> ScriptedClient:
    """A client with one loop, whose scripts nobody checks in the end."""
    made = ScriptedClient.through(ScriptedTransport())
    made.add(LOOP)
    return made


@pytest.mark.slow
def test_the_example_of_the_page_passes_as_it_stands(tmp_path: Path) -> None:
    """It is copied; an example that fails is the first thing that people learn."""
    text = PAGE.read_text()
    (loop,) = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    service, tests = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    files = {"banner.yaml": loop, "shop.py": service, "test_shop.py": tests}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (command,) = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout
    (tmp_path / "shop.py").write_text(service.replace('"visits": visits', '"visit": visits'))
    broken = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert broken.returncode == 1, "the control: a service with a misspelt feature"
    assert "feature 'visit' is unknown" in broken.stdout or "is missing" in broken.stdout


def test_a_script_is_used_up_in_order_and_to_its_end(client: ScriptedClient) -> None:
    """One answer too many or too few means that the service does something else."""
    client.script("banner", ["a", "b"])
    first, second = client.loop("banner").get_decisions([{"features": FEATURES}] * 2)
    assert [(first.action, first.id), (second.action, second.id)] == [
        ("a", "banner-1"),
        ("b", "banner-2"),
    ]
    client.check_scripts()
    with pytest.raises(ScriptError, match="no answer left for banner-3"):
        client.loop("banner").get_decision(FEATURES)
    client.script("banner", ["c"])
    with pytest.raises(ScriptError, match=r"was not asked for the answers \['c'\]"):
        client.check_scripts()


def test_an_answer_that_the_loop_cannot_give_is_no_script(client: ScriptedClient) -> None:
    """A test that scripts it would prove something that never happens."""
    with pytest.raises(RequestError, match="scripted 'z' is no answer of this choice decision"):
        client.script("banner", ["z"])


def test_without_a_script_the_default_answers_and_nothing_is_explored(
    client: ScriptedClient,
) -> None:
    """A test that passes four times of five is none; this loop explores everything."""
    loop = client.loop("banner")
    results = [loop.get_decision(FEATURES) for _ in range(50)]
    assert {(one.action, one.source) for one in results} == {("c", "default")}
    assert loop.get_decision(FEATURES, baseline="b").action == "b"
    assert client.decisions("banner")[-1].baseline == "b"


def test_a_pinned_score_goes_through_the_policy_of_the_loop(client: ScriptedClient) -> None:
    """Without epsilon: the best action, each time."""

    def score(features: Mapping[str, object]) -> float:
        return 1.0 if features["action"] == ("b" if features["visits"] == 3 else "a") else 0.5

    client.pin("banner", score)
    results = [client.loop("banner").get_decision(FEATURES) for _ in range(30)]
    assert {(one.action, one.score, one.source) for one in results} == {("b", 1.0, "model")}
    assert client.loop("banner").get_decision({**FEATURES, "visits": 4}).action == "a"


def test_policies_that_want_to_know_how_sure_a_model_is_take_the_best_score() -> None:
    """A function of the test says what it expects, and no deviation."""
    client = ScriptedClient.through(ScriptedTransport())
    client.add(banner(decision=CHOICE, policy={"kind": "thompson"}))
    client.pin("banner", lambda features: float(features["action"] == "b"))
    assert {client.loop("banner").get_decision(FEATURES).action for _ in range(20)} == {"b"}


@pytest.mark.slow
def test_a_trained_model_can_be_pinned_from_its_lake(
    client: ScriptedClient, tmp_path: Path
) -> None:
    """The service is tested with what decides in production, to the bit."""
    decided = DecidedLake.of(LOOP, tmp_path)
    record = decided.live(trained(LOOP, "lightgbm"))
    (wanted,) = decided.decide(1)
    client.pin_model("banner", lake=tmp_path, version=record.version)
    result = client.loop("banner").get_decision(FEATURES)
    assert (result.source, result.model_version) == ("model", record.version)
    assert wanted.model_version == record.version
    request = decided.decider.decisions.check(FEATURES)
    live = decided.decider.model
    assert live is not None
    assert result.score == max(live.score((*request.features, name)) for name in "abc")


def test_feedback_is_checked_and_recorded(client: ScriptedClient) -> None:
    """A kind or a value that the loop does not have fails in the test, not at night."""
    loop = client.loop("banner")
    made = loop.log_feedback("banner-1", "clicked", seconds=1, page="home")
    (given,) = client.feedback("banner")
    assert (given.id, given.kind, given.values) == (
        made,
        "clicked",
        {"seconds": 1.0, "page": "home"},
    )
    with pytest.raises(RequestError, match="no feedback 'click'"):
        loop.log_feedback("banner-1", "click")
    with pytest.raises(RequestError, match="seconds"):
        loop.log_feedback("banner-1", "clicked", seconds="long", page="home")
    with pytest.raises(RequestError, match="serves no loop 'baner'"):
        client.loop("baner").get_decision(FEATURES)
    assert len(client.feedback("banner")) == 1


def test_an_outage_is_what_a_service_has_to_live_through(client: ScriptedClient) -> None:
    """The page is shown, and the feedback has to be sent again."""
    with client.outage():
        result = client.loop("banner").get_decision(FEATURES)
        with pytest.raises(BrokerError):
            client.loop("banner").log_feedback("banner-1", "left")
    assert (result.action, result.source, client.unanswered) == ("c", "fallback", 1)
    assert client.loop("banner").get_decision(FEATURES).source == "default"


def test_services_with_asyncio_have_the_same_client(client: ScriptedClient) -> None:
    """What is scripted for one is answered by the other."""
    client.script("banner", ["a"])

    async def asked() -> str:
        loop = client.awaited().loop("banner")
        result = await loop.get_decision(FEATURES)
        await loop.log_feedback(result.id, "left")
        return str(result.action)

    assert asyncio.run(asked()) == "a"
    assert [one.kind for one in client.feedback("banner")] == ["left"]
