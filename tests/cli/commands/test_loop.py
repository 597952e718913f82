"""The commands around a loop file, as a person types them."""

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.schemas.loops import MINIMAL

from tidemill.cli.app import main
from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.kafka import KafkaConfig, Topic, ensure_topics, partition_count, read_compacted
from tidemill.schemas.published import fetch_loops

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; return its exit status, output and errors."""

    def of(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return of


@pytest.fixture
def banner(tmp_path: Path) -> Path:
    """A legal loop file."""
    path = tmp_path / "banner.yaml"
    path.write_text(MINIMAL)
    return path


def test_what_init_writes_is_legal(run: Run, tmp_path: Path) -> None:
    """The first thing a person sees must work."""
    path = tmp_path / "shop" / "free-shipping.yaml"
    assert run("init", path)[0] == 0
    status, out, _ = run("check", path)
    assert status == 0
    assert "free-shipping version 1 is legal" in out
    assert (path.parent / "loop.schema.json").exists()


def test_init_overwrites_nothing_unasked(run: Run, banner: Path) -> None:
    """An hour of work could be in that file."""
    status, _, error = run("init", banner)
    assert status == 2
    assert "exists already" in error
    assert banner.read_text() == MINIMAL
    assert run("init", banner, "--force")[0] == 0


def test_check_tells_every_mistake_and_fails(run: Run, banner: Path) -> None:
    """It runs in pipelines, where the exit status is all that counts."""
    banner.write_text(MINIMAL.replace("30m", "soon").replace("visits: int", "visits: whole"))
    status, _, errors = run("check", banner)
    assert status == 1
    assert f"{banner}:5" in errors
    assert f"{banner}:8" in errors
    status, output, _ = run("check", "--json", banner)
    assert status == 1
    assert [mistake["line"] for mistake in json.loads(output)["mistakes"]] == [5, 8]


def test_check_warns_of_a_loop_that_cannot_learn(run: Run, banner: Path) -> None:
    """The file is legal, so the status is 0; the reason and the line to write are on stderr."""
    banner.write_text(banner.read_text() + "\nlearning: apprentice\n")
    text = banner.read_text().replace("kind: threshold", "kind: threshold, epsilon: 0.1")
    banner.write_text(text)
    status, _, errors = run("check", banner)
    assert status == 0
    assert "warning: epsilon 0.1 has no effect" in errors
    assert "learning: on" in errors
    (told,) = json.loads(run("check", banner, "--json")[1])["warnings"]
    assert told["what"].startswith("epsilon 0.1 has no effect")


def test_a_file_that_cannot_be_read_is_no_finding(run: Run, tmp_path: Path) -> None:
    """A pipeline that names the wrong file has not checked anything."""
    status, _, error = run("check", tmp_path / "gone.yaml")
    assert status == 2
    assert "cannot be read" in error


def test_check_looks_into_the_label(run: Run, banner: Path) -> None:
    """SQL is where data engineers make their mistakes."""
    banner.write_text(MINIMAL.replace("count(*)", "max(visits)"))
    status, _, errors = run("check", banner)
    assert status == 1
    assert "'visits', a feature" in errors
    assert f"{banner}:13" in errors


def test_diff_shows_changes_and_fails_where_events_would_become_unreadable(
    run: Run, banner: Path, tmp_path: Path
) -> None:
    """A reviewer sees what a newer version does to what is logged."""
    newer = tmp_path / "newer.yaml"
    newer.write_text(MINIMAL.replace("30m", "1h") + "version: 2\n")
    status, out, _ = run("loop", "diff", banner, newer)
    assert status == 0
    assert "feedback.clicked.within" in out
    assert "with version 2 of banner:\n  the label changes its meaning" in out
    assert "another label than that of banner version 2: the default decides until" in out
    assert "rows of version 1 are not learned; tidemill publish --backfill" in out
    happens = json.loads(run("loop", "diff", "--json", banner, newer)[1])["happens"]
    assert happens[0] == "the label changes its meaning"
    newer.write_text(MINIMAL.replace("visits: int", "visits: bool") + "version: 2\n")
    status, output, _ = run("loop", "diff", "--json", banner, newer)
    assert status == 1
    [change] = json.loads(output)["changes"]
    assert change["path"] == "features.visits"
    assert not change["compatible"]


@pytest.mark.slow
def test_diff_of_two_files_says_nothing_of_publishing_what_never_was(
    run: Run, banner: Path, tmp_path: Path
) -> None:
    """A person compares drafts, too; the version is to be raised, but nothing stands yet."""
    newer = tmp_path / "newer.yaml"
    newer.write_text(MINIMAL.replace("30m", "1h"))
    status, _, error = run("loop", "diff", banner, newer)
    assert status == 2
    assert "both files say version 1, and differ" in error
    assert f"write version: 2 in {newer}" in error
    banner.write_text(MINIMAL + "version: 3\n")
    _, _, error = run("loop", "diff", banner, newer)
    assert "says version 1, which is older than 3" in error
    assert "is published" not in error
    assert run("loop", "diff", banner, banner)[0] == 0


def test_check_asks_what_a_label_depends_on_where_it_cannot_know(run: Run, banner: Path) -> None:
    """Only the author knows whether the outcome is the same whatever is decided."""
    status, out, _ = run("check", banner)
    assert status == 0
    assert "depends on the world" in out
    assert "note: nothing says what the label depends on" in out
    assert "write label: {depends_on: action}" in out
    document = json.loads(run("check", "--json", banner)[1])
    assert document["depends_on"] == "world"
    assert len(document["notes"]) == 1
    stated = MINIMAL.replace("count(*) > 0", "count(*) > 0\n  depends_on: action")
    reward = "gate: {reward: label - 0.1}\n"
    banner.write_text(stated + reward)
    out = run("check", banner)[1]
    assert "depends on the action" in out
    assert "reward     label - 0.1" in out
    assert "note:" not in out


def test_check_names_the_line_of_a_wrong_reward(run: Run, banner: Path) -> None:
    """It is SQL like the label, and wrong in the same ways."""
    banner.write_text(MINIMAL + "gate:\n  reward: label - visits\n")
    status, _, errors = run("check", banner)
    assert status == 1
    line = banner.read_text().splitlines().index("  reward: label - visits") + 1
    assert f"banner.yaml:{line}" in errors
    assert "reward reads 'visits'" in errors


def test_check_tells_times_and_label_as_people_write_them(run: Run, banner: Path) -> None:
    """A person compares it with the file; 481m and what SQL is compiled to are no help in that."""
    sql = "count(*) filter (where seconds > 3) > 0"
    banner.write_text(MINIMAL.replace("30m", "8h").replace("count(*) > 0", sql) + "grace: 1m\n")
    out = run("check", banner)[1]
    assert "closes     8h1m of event time" in out
    assert f"label      {sql}  (bool)" in out
    assert "count_star" not in out
    shown = "  shown: {within: 1h}\nlabel:"
    banner.write_text(MINIMAL.replace("label:", shown) + "activation: shown\ncorrections: 7d\n")
    out = run("check", banner)[1]
    assert "counts     once there is shown feedback" in out
    assert "after each decision, corrected up to 7d later" in out


def test_check_names_every_topic_and_which_kind_comes_by_a_stream(run: Run, banner: Path) -> None:
    """Whoever runs the brokers is told what to expect before anything is published."""
    bought = "  bought: {within: 7d, stream: orders}\nlabel:"
    banner.write_text(MINIMAL.replace("label:", bought))
    out = run("check", banner)[1]
    assert "feedback   clicked within 30m, bought within 7d by stream orders" in out
    assert "topics     banner.decisions, banner.feedback, banner.feedback.orders" in out


def test_the_schema_can_be_handed_to_an_editor(run: Run) -> None:
    """Not every editor finds files in packages."""
    schema = json.loads(run("loop", "schema")[1])
    assert schema["title"] == "tidemill loop"
    assert "stream" in schema["$defs"]["Feedback"]["properties"]


def test_publish_wants_to_know_where_kafka_is(
    run: Run, banner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is the setting."""
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    status, _, error = run("publish", banner)
    assert status == 2
    assert "KAFKA_BOOTSTRAP_SERVERS" in error


def test_publish_refuses_a_wrong_label_before_it_asks_the_broker(
    run: Run, banner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once published, a wrong label stops every worker."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere:1")
    banner.write_text(MINIMAL.replace("count(*)", "random()"))
    status, _, error = run("publish", banner)
    assert status == 2
    assert "random" in error


@pytest.mark.kafka
def test_published_once_then_unchanged(
    run: Run, banner: Path, kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment publishes on every run, and compares with what is published."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    bought = "  bought: {within: 7d, stream: orders}\nlabel:"
    text = MINIMAL.replace("loop: banner", "loop: commands-banner").replace("label:", bought)
    banner.write_text(text)
    assert json.loads(run("publish", "--json", banner)[1])["new"] is True
    out = run("publish", banner)[1]
    assert "nothing changed" in out
    assert "commands-banner.feedback and commands-banner.feedback.orders, 4 partitions" in out
    assert partition_count(kafka, "commands-banner.feedback.orders") == 4
    assert "no difference" in run("loop", "diff", banner)[1]
    found = json.loads(run("loop", "contracts", "commands-banner", "--json")[1])["contracts"]
    topics = [each["topic"] for each in found]
    assert topics[0] == "commands-banner.decisions"
    assert "commands-banner.feedback.orders" in topics
    schemas = read_compacted(kafka, "tidemill.schemas")
    for each in found:
        key = f"{each['subject']}/{each['prefix'].removeprefix('c301')}"
        assert json.loads(schemas[key.encode()]) == each["schema"]
    assert "topic commands-banner.decisions" in run("loop", "contracts", "commands-banner")[1]


def test_of_several_files_none_is_published_if_one_is_wrong(
    run: Run, banner: Path, tmp_path: Path
) -> None:
    """A deployment that stops in the middle is worse than one that does not begin."""
    other = tmp_path / "other.yaml"
    other.write_text(MINIMAL.replace("count(*)", "random()"))
    status, _, error = run("publish", banner, other)
    assert status == 2
    assert f"{other}:" in error


@pytest.mark.kafka
def test_what_the_broker_has_against_one_file_is_told_before_any_is_published(
    run: Run,
    banner: Path,
    tmp_path: Path,
    kafka: KafkaConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two hundred files the wrong one has to be named, and the fleet stays as it was."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    name = f"many-{uuid.uuid4().hex[:8]}"
    text = banner.read_text()
    banner.write_text(re.sub("^loop: .*$", f"loop: {name}-a", text, flags=re.M))
    other = tmp_path / "other.yaml"
    other.write_text(re.sub("^loop: .*$", f"loop: {name}-b", text, flags=re.M))
    ensure_topics(kafka, [Topic(name=f"{name}-b.decisions", partitions=7)])
    status, _, error = run("publish", banner, other)
    assert status == 2
    assert f"{other}: topic {name}-b.decisions has 7 partitions" in " ".join(error.split())
    assert not any(loop.startswith(name) for loop, _ in fetch_loops(kafka))


def test_check_refuses_what_lightgbm_may_not_be_asked(run: Run, banner: Path) -> None:
    """`machines` connects to the network; a name that LightGBM does not know is passed over."""
    banner.write_text(MINIMAL + "models:\n  batch:\n    params:\n      machines: 10.0.0.1:80\n")
    status, _, error = run("check", banner)
    assert status == 1
    line = len(banner.read_text().splitlines())
    assert f"{banner}:{line}: models.batch.params: 'machines' is not allowed" in error


@pytest.mark.kafka
def test_publishing_adds_the_columns_of_a_version_to_the_lake(
    run: Run, banner: Path, kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What reads the lake of a quiet loop must not wait for the first event of the version."""
    lake = Lake(LakeConfig(root=str(tmp_path / "lake")))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    name = f"lake-{uuid.uuid4().hex[:8]}".replace("-0", "-a")
    first = MINIMAL.replace("loop: banner", f"loop: {name}")
    second = first.replace("  visits: int\n", "  visits: int\n  age: {type: int, nullable: true}\n")
    banner.write_text(first)
    assert run("publish", banner)[0] == 0
    assert lake.loops() == [], "without TIDEMILL_LAKE there is none"
    monkeypatch.setenv("TIDEMILL_LAKE", lake.root)
    assert run("publish", banner)[0] == 0
    banner.write_text(f"{second}version: 2\n")
    said = f"with version 2 of {name}:\n  no model decides yet"
    assert said in run("loop", "diff", banner)[1]
    status, out, _ = run("publish", "--backfill", banner)
    assert status == 0
    assert out.index(said) < out.index("version 2 is published"), "before it happens"
    assert "no labels to make" in out
    for table in ("decisions", "examples"):
        assert "age" in str(lake.table(name, table).schema["features"])
    assert lake.newest_number(name) == 2
    assert run("sql", "SELECT features.age FROM examples")[0] == 0
    refused = first.replace("  visits: int\n", "  visits: float\n")
    banner.write_text(f"{refused}version: 3\n")
    assert run("publish", banner)[0] != 0
    assert lake.newest_number(name) == 2, "a version that is refused leaves the lake alone"
