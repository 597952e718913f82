"""The layout says what is where: folders of a dozen modules, one name for one meaning."""

import re
from pathlib import Path

import pytest
from tests import layout
from tests.layout import ROOT, Module

PRODUCT = layout.modules()
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
USED, UNUSED = GLOSSARY.split("## Words that are not used")

# Modules that several packages have, each with the same meaning: a command and its table are named
# like what they show.
SHARED_NAMES = {
    "app": "a Faust app in streams; the command line's in cli",
    "audit": "the audit, its command, its table",
    "chain": "the freshness of a loop, its table",
    "backfill": "the backfill, its processes, its command",
    "deadletters": "the command, its tables",
    "demo": "the demo, its command",
    "kafka": "a store on Kafka, the local Kafka, its command",
    "label_lag": "the curve, its table",
    "labels": "the SQL of a label, and its computation",
    "lag": "the lag, its table",
    "lake": "the lake, its commands",
    "metrics": "the counters of one kind of process, or of an evaluation",
    "queries": "SQL of the lake, and of the audit",
    "replay": "the replay, its processes, its command",
    "reprocess": "the commands of backfill and replay, their tables",
    "sandbox": "the sandbox, its command, its table",
    "report": "what an audit found, and what a demo found",
    "s3": "the local S3 server, its fixture",
    "slices": "stretches of event time, of an audit and of a backfill",
    "topics": "the names of topics, and how they are made",
    "trace": "the life of a decision, its command, its table",
    "worker": "a process of streams or serving, its command",
    "writer": "writes to Kafka: records, and dead letters",
}


KEPT_NAMES = {"ScratchError"}  # public, and named like its setting, TIDEMILL_SCRATCH


def rows(page: str) -> list[list[str]]:
    """Return the cells of all table rows of *page*, heads and rules left out."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in {"word", "not"}]


def camel_words(name: str) -> set[str]:
    """Return the words of a class or module name, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", name)}


def test_a_folder_can_be_read_at_a_glance() -> None:
    """Packages of fifty modules do not say what a module is for."""
    sizes = layout.folder_sizes(PRODUCT)
    assert {name: n for name, n in sizes.items() if n > layout.FOLDER_MODULES} == {}


def test_a_long_module_gives_its_reason() -> None:
    """Three hundred lines are one noun; more is two of them, or a reason."""
    assert layout.too_long(PRODUCT) == []


def test_functions_stay_short_and_public_names_documented() -> None:
    """The figures at the time of the layout; they may only get better."""
    assert layout.long_functions(PRODUCT) <= 0.032
    assert layout.documented(PRODUCT) >= 0.95


def test_each_package_says_what_it_holds_and_what_it_may_not_import() -> None:
    """A newcomer reads the __init__ first."""
    short = [
        str(each.path)
        for each in PRODUCT
        if each.path.stem == "__init__" and each.doc.count(".") < 2
    ]
    assert short == []


def test_a_class_or_alias_has_a_name_of_its_own() -> None:
    """Run was three classes, Place six types."""
    assert {name: n for name, n in layout.names(PRODUCT).items() if n > 1} == {}


def test_modules_share_a_name_only_where_it_means_the_same() -> None:
    """`rows` was three modules with three meanings."""
    stems: dict[str, int] = {}
    for each in PRODUCT:
        if each.path.stem not in {"__init__", "__main__"}:
            stems[each.path.stem] = stems.get(each.path.stem, 0) + 1
    assert {stem for stem, n in stems.items() if n > 1} <= SHARED_NAMES.keys()


def test_the_glossary_lists_each_word_once() -> None:
    """Two entries of one word are two meanings."""
    words = [row[0] for row in rows(USED)]
    assert len(words) > 50
    assert {word for word in words if words.count(word) > 1} == set()


def test_the_glossary_names_what_is_in_the_code() -> None:
    """A renamed class must not leave its entry behind."""
    code = "\n".join((ROOT / each.path).read_text() for each in PRODUCT)
    named = {name for row in rows(USED) for name in re.findall(r"`(\w+)`", row[2])}
    assert len(named) > 50
    missing = {
        name for name in named if not re.search(rf"(class|def) {name}\b|^{name} = ", code, re.M)
    }
    assert missing == set()


@pytest.mark.parametrize("row", rows(UNUSED), ids=lambda row: row[0])
def test_no_class_and_no_module_uses_a_word_of_before(row: list[str]) -> None:
    """A private vocabulary is a second language to learn."""
    words = {word.strip() for word in row[0].split(",")}
    names = [*layout.names(PRODUCT), *(each.path.stem for each in PRODUCT)]
    known = [name for name in names if name not in KEPT_NAMES]
    assert [name for name in known if camel_words(name) & words] == []


def suites(module: Module) -> list[Path]:
    """Return the test files that prove *module*: its own, or those its package names for it."""
    parts = module.path.parts
    folder = Path("tests", *(parts[2:] if parts[0] == "src" else parts)[:-1])
    own = ROOT / folder / f"test_{module.path.stem}.py"
    if own.exists():
        return [own]
    package = (ROOT / module.path).with_name("__init__.py").read_text()
    elsewhere = " ".join(package.split())
    found = re.findall(rf"Proved elsewhere: `{module.path.stem}` by `([^`]+)`", elsewhere)
    return [ROOT / path for path in found]


@pytest.mark.parametrize(
    "module",
    [each for each in PRODUCT if not each.path.stem.startswith("__")],
    ids=lambda module: str(module.path),
)
def test_each_module_has_a_suite_that_proves_it(module: Module) -> None:
    """tests/ mirrors the packages; who is proved elsewhere says where."""
    found = suites(module)
    assert found, f"no test file, and no 'Proved elsewhere' line for {module.path}"
    assert all(path.exists() for path in found)


def test_nobody_says_what_a_module_does_not_know() -> None:
    """Once in the package is enough, and the import contracts prove it."""
    assert [str(m.path) for m in PRODUCT if re.search(r"\bknows no(thing)?\b", m.doc)] == []
