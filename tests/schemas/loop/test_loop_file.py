"""Loop files: whoever makes a mistake is told the line, what it is, and what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.loops import MINIMAL

from tidemill.errors import LoopError
from tidemill.schemas.loop.definition import Feedback, Label
from tidemill.schemas.loop.labels import compile_label
from tidemill.schemas.loop.loop_file import LoopFileError, dump_loop, load_loop, parse_loop

FLIGHTS = Path(__file__).parents[3] / "deploy" / "demo" / "flights.yaml"


def mistake(text: str) -> LoopError:
    """Return the error of reading *text*."""
    with pytest.raises(LoopError) as caught:
        parse_loop(text, file="banner.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "line", "what", "hint"),
    [
        ("within: 30m", "within: 0s", 8, "zero", "30m"),
        ("within: 30m", "within: 30", 8, "30 is not a duration", "unit"),
        ("country: category", "country: categroy", 4, "'categroy'", "did you mean category"),
        ("label:", "labels:", 12, "unknown key 'labels'", "did you mean label"),
        ("  sql: count(*) > 0", "  type: bool", 12, "'label.sql' is missing", "add sql"),
        ("policy: {kind: threshold}", "policy: {kind: value}", 14, "value policy", "threshold"),
        ("default: false", "default: no", 2, "'no'", "true or false"),
        ("  visits: int", "  Visits: int", 5, "not a legal name", "small letters"),
        ("  visits: int", "  country: int", 5, "given twice, first in line 4", "keep one"),
        ("loop: banner", "loop: [banner", 2, "is not YAML", "indentation"),
        ("loop: banner", "loop: !!python/name:os.system", 1, "tag", "plain text"),
        ("loop: banner", "loop: banner\n2: x", 2, "'2' is not a plain name", "quotes"),
        ("features:", "features: [a]\nx:", 3, "not a map", "lines below"),
        ("within: 30m", "within: 99999999999d", 8, "longer than", "unit"),
    ],
)
def test_a_mistake_names_its_line_and_the_way_out(
    old: str, new: str, line: int, what: str, hint: str
) -> None:
    """A person who knows no ML reads this message first, and alone."""
    error = mistake(MINIMAL.replace(old, new))
    assert (error.file, error.line) == ("banner.yaml", line)
    assert what in error.what
    assert hint in error.hint


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    """Ten mistakes should not take ten runs."""
    error = mistake(MINIMAL.replace("int", "integer").replace("30m", "soon"))
    assert isinstance(error, LoopFileError)
    assert [one.line for one in error.diagnostics] == [5, 8]
    assert "banner.yaml:8" in str(error)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n"
    for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "aliases"),
        ("[" * 20_000, "nested deeper"),
        ("a: &a {b: *a}", "contains itself"),
        ("a: b\n" * 100_000, "larger than"),
        ("", "defines nothing"),
        ("- a", "no map"),
        ("a: 1\n---\na: 2", "another document"),
        ("a: \x00", "not YAML"),
        ("<<: {a: 1}", "not a plain name"),
    ],
)
def test_hostile_yaml_is_refused_before_it_costs_anything(text: str, said: str) -> None:
    """Loop files come from many hands, and `check` runs in their pipelines."""
    assert said in mistake(text).what


@given(st.text(alphabet="abc:[]{}&*!|>-#'\"\n \t,?%@`0.~", max_size=60))
def test_no_text_at_all_escapes_the_checks(text: str) -> None:
    """Whatever is in the file, the answer is a loop or a LoopError, never a traceback."""
    mistake(text)


def test_yes_no_and_dates_are_words() -> None:
    """An action called no is a word to its author; YAML 1.1 made it false."""
    text = MINIMAL.replace(
        "{type: bool, default: false}", "{type: choice, actions: [yes, no, 1:30], default: no}"
    ).replace("{kind: threshold}", "{kind: greedy}")
    assert parse_loop(text).decision.actions == ["yes", "no", "1:30"]


@pytest.mark.parametrize("text", [MINIMAL, FLIGHTS.read_text()])
def test_a_dumped_loop_reads_back_as_the_same_value(text: str) -> None:
    """People copy from `tidemill diff` and from the published definition."""
    loop = parse_loop(text)
    assert parse_loop(dump_loop(loop)) == loop
    assert parse_loop(dump_loop(loop)).digest == loop.digest


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A wrong path is the commonest mistake of all."""
    with pytest.raises(LoopError, match="cannot be read"):
        load_loop(tmp_path / "missing.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"loop: banner\n# \xff\n")
    with pytest.raises(LoopError, match="UTF-8") as caught:
        load_loop(binary)
    assert caught.value.line == 2


def test_the_example_is_the_loop_that_the_demo_promises() -> None:
    """The demo's table means nothing if the loop file drifts away from its story."""
    loop = load_loop(FLIGHTS)
    assert loop.loop == "flight-delay"
    assert loop.decision.actions == ["warn", "quiet"]
    assert loop.decision.default == "quiet"
    assert loop.wait.total_seconds() == 8 * 3600
    assert loop.label.missing == "censored"


def test_the_guide_shows_a_loop_that_is_legal() -> None:
    """People copy the first example they see."""
    guide = (FLIGHTS.parents[2] / "docs" / "guide" / "loops.md").read_text()
    example = guide.split("```yaml\n")[1].split("```")[0]
    loop = parse_loop(example)
    assert compile_label(loop)
    for line in guide.split("```sql\n")[1].split("```")[0].strip().splitlines():
        values = {"arr_delay": "float", "amount": "float", "stars": "int"}
        label = Label(sql=line, type="bool" if ">" in line else "float")
        feedback = {"bought": Feedback.model_validate({"within": "1d", "values": values})}
        assert compile_label(loop.model_copy(update={"label": label, "feedback": feedback}))
