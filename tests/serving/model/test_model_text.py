"""No LightGBM text reaches the library unless its structure is sound."""

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving.models import SIGNATURE, booster, text

from tidemill.errors import ModelError
from tidemill.serving.model.model_text import read_text
from tidemill.serving.model.predictor import LightGbmModel

WIDTH = len(SIGNATURE.columns)


def with_line(key: str, value: str, tree: int = 0) -> str:
    """Return the model with one line of one tree replaced, and the sizes made right again."""
    head, *trees = re.split(r"(?=^Tree=)", text().partition("end of trees\n")[0], flags=re.M)
    trees[tree] = re.sub(rf"^{key}=.*$", f"{key}={value}", trees[tree], count=1, flags=re.M)
    return assembled(head, trees)


def assembled(head: str, trees: list[str]) -> str:
    """Return a model of these trees, with sizes that say so."""
    sizes = " ".join(str(len(tree)) for tree in trees)
    return re.sub(r"tree_sizes=.*", f"tree_sizes={sizes}", head) + "".join(trees) + "end of trees\n"


def without_an_empty_line(tree: int) -> str:
    """Return the model with one of its trees ending in its last line."""
    head, *trees = re.split(r"(?=^Tree=)", text().partition("end of trees\n")[0], flags=re.M)
    trees[tree] = trees[tree].rstrip("\n") + "\n"
    return assembled(head, trees)


def line(key: str) -> list[str]:
    """Return the entries of one line of the first tree."""
    found = re.search(rf"^{key}=(.*)$", text(), flags=re.M)
    assert found
    return found[1].split(" ")


def changed(key: str, place: int, value: str) -> str:
    """Return the model with one entry of one line of the first tree replaced."""
    entries = line(key)
    entries[place] = value
    return with_line(key, " ".join(entries))


@pytest.mark.parametrize("rounds", [1, 20])
def test_what_lightgbm_writes_is_accepted(rounds: int) -> None:
    """A guard that refuses good models would stop the loop for good."""
    assert len(read_text(text(rounds), WIDTH).trees) == rounds


def test_a_model_that_is_put_together_again_is_accepted() -> None:
    """The hostile texts below are made this way; only what they change may be refused."""
    assert len(read_text(with_line("num_cat", line("num_cat")[0]), WIDTH).trees) == 20


def without_a_split() -> str:
    """Return a model of two trees of which the first is one leaf."""
    stump = re.sub(r"^(Tree=0\n).*?(?=^Tree=1\n)", STUMP, text(2), flags=re.M | re.S)
    head, *trees = re.split(r"(?=^Tree=)", stump.partition("end of trees\n")[0], flags=re.M)
    return assembled(head, trees)


def test_a_model_without_a_split_is_accepted() -> None:
    """LightGBM writes a single leaf where nothing could be learned, with empty lines."""
    sound = without_a_split()
    assert len(read_text(sound, WIDTH).trees) == 2
    LightGbmModel(sound, WIDTH)


HOSTILE: dict[str, Callable[[], str]] = {
    "more leaves than values": lambda: with_line("num_leaves", "31"),
    "a huge number of leaves": lambda: with_line("num_leaves", "2000000000"),
    "a negative number of leaves": lambda: with_line("num_leaves", "-1"),
    "a node that is its own child": lambda: changed("left_child", 0, "0"),
    "a child that points back": lambda: changed("right_child", -1, "0"),
    "a child out of range": lambda: changed("left_child", 0, "9999"),
    "a leaf out of range": lambda: changed("left_child", -1, "-9999"),
    "a feature out of range": lambda: changed("split_feature", 0, str(WIDTH)),
    "a feature below zero": lambda: changed("split_feature", 0, "-1"),
    "a threshold that is NaN": lambda: changed("threshold", 1, "nan"),
    "a leaf value that is NaN": lambda: changed("leaf_value", 0, "nan"),
    "a leaf value that is infinite": lambda: changed("leaf_value", 0, "inf"),
    "a number that is none": lambda: changed("leaf_value", 0, "0x10"),
    "a grouped number": lambda: changed("split_feature", 0, "0_1"),
    "an unknown decision type": lambda: changed("decision_type", 0, "64"),
    "a short threshold line": lambda: with_line("threshold", "0.5"),
    "a set of categories too few": lambda: with_line("num_cat", "500"),
    "category bounds past their end": lambda: changed("cat_boundaries", -1, "4000000"),
    "a category word of more than 32 bits": lambda: changed("cat_threshold", 0, str(2**32)),
    "linear leaves": lambda: with_line("is_linear", "1"),
    "an unknown line": lambda: with_line("is_linear", "0\nleaf_const=1"),
    "an empty line, where the library stops to read": lambda: with_line("is_linear", "0\n"),
    "an empty line in the head": lambda: text().replace("num_class=1", "\nnum_class=1"),
    "a line that comes twice": lambda: with_line("is_linear", "0\nis_linear=0"),
    "another width": lambda: text().replace(f"max_feature_idx={WIDTH - 1}", "max_feature_idx=999"),
    "many classes": lambda: text().replace("num_class=1", "num_class=100000"),
    "many trees a round": lambda: text().replace("num_tree_per_iteration=1", "num_tree_per_it=9"),
    "another objective": lambda: text().replace("binary sigmoid:1", "lambdarank"),
    "another version": lambda: text().replace("version=v4", "version=v5"),
    "sizes that lie": lambda: re.sub(r"tree_sizes=\d+", "tree_sizes=99999999", text()),
    "a missing tree": lambda: re.sub(r"tree_sizes=\d+ ", "tree_sizes=", text()),
    "no trees": lambda: text().partition("\n\nTree=0")[0],
    "a truncated file": lambda: text()[:2_000],
    "a file truncated in a tree": lambda: text().partition("end of trees")[0][:-200],
    "nothing": lambda: "",
    "a tab, which the library reads as zero": lambda: changed("num_leaves", 0, "\t15"),
    "a line of another system": lambda: text().replace("\nnum_class", "\r\nnum_class"),
    "a null byte at the end of a number": lambda: changed("leaf_value", 0, "0.5\0"),
    "no empty line behind a tree": lambda: without_an_empty_line(0),
    "no empty line behind the last tree": lambda: without_an_empty_line(19),
    "weights that are announced, and missing": lambda: with_line("leaf_weight", ""),
    "one leaf that says nothing of sets": lambda: re.sub("num_cat=0\n", "", without_a_split()),
    "an infinite shrinkage": lambda: with_line("shrinkage", "inf"),
    "too few names": lambda: re.sub("feature_names=[^ ]+ ", "feature_names=", text()),
    "too few ranges": lambda: re.sub("feature_infos=[^ ]+ ", "feature_infos=", text()),
    "sets that do not begin at the first word": lambda: changed("cat_boundaries", 0, "1"),
    "sets that go back": lambda: changed("cat_boundaries", 1, "0"),
    "half a set of categories": lambda: changed(
        "threshold", [int(kind) & 1 for kind in line("decision_type")].index(1), "0.5"
    ),
    "more leaves than a model may have": lambda: with_line("num_leaves", "1000001"),
    "a null byte": lambda: text().replace("split_gain", "split\0gain", 1),
    "other letters": lambda: text().replace("split_gain", "split_gäin", 1),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_text_is_refused(case: str) -> None:
    """Each of these crashes, hangs or misleads a library that trusts its input."""
    hostile = HOSTILE[case]()
    assert hostile != text()
    with pytest.raises(ModelError, match="not a model that can be trusted"):
        read_text(hostile, WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["a node that is its own child", "a feature out of range"])
def test_without_the_check_a_hostile_text_harms_the_process(case: str) -> None:
    """The negative control: the library itself takes them, and crashes, hangs or reads on."""
    program = (
        "import sys\n"
        "from tidemill.serving.model.predictor import LightGbmModel\n"
        f"model = LightGbmModel(sys.stdin.read(), {WIDTH})\n"
        f"print(model.predict([0.0] * {WIDTH}))\n"
    )
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command, input=HOSTILE[case](), text=True, capture_output=True, timeout=3, check=False
        )
    except subprocess.TimeoutExpired:
        return  # an endless prediction
    assert done.returncode != 1, done.stderr  # 1 would be an error of its own, told in words


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_text_is_refused_or_does_no_harm(data: st.DataObject) -> None:
    """Whatever slips through the check is refused by the library in words, or loads and scores."""
    whole = text(3).partition("end of trees\n")[0] + "end of trees\n"
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + data.draw(st.sampled_from("0123456789-. \n=eax")) + whole[place + 1 :]
    try:
        read_text(damaged, WIDTH)
        model = LightGbmModel(damaged, WIDTH)
    except ModelError:
        return
    assert isinstance(model.predict([0.5] * WIDTH), float)


def test_other_objectives_are_accepted() -> None:
    """A float label is learned by regression."""
    assert len(read_text(booster(5, "regression").model_to_string(), WIDTH).trees) == 5


STUMP = (
    r"\1num_leaves=1\nnum_cat=0\nsplit_feature=\nsplit_gain=\nthreshold=\ndecision_type=\n"
    r"left_child=\nright_child=\nleaf_value=0.25\nleaf_weight=\nleaf_count=3000\n"
    r"internal_value=\ninternal_weight=\ninternal_count=\nis_linear=0\nshrinkage=1\n\n\n"
)
