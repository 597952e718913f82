"""`tidemill init`, `check`, `publish`; `tidemill loop diff`, `contracts`, `schema`, `retire`."""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import (
    AsJson,
    LoopFileArgument,
    LoopFileArguments,
    LoopName,
    Who,
    Why,
    person,
)
from tidemill.cli.tables.loops import (
    print_changes,
    print_happens,
    print_loop,
    print_mistakes,
    print_warnings,
)
from tidemill.cli.terminal import print_json, print_text
from tidemill.errors import ConfigError, ContractError, LoopError
from tidemill.kafka import KafkaConfig, partition_count
from tidemill.schemas import topics
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.diff import check_successor, diff_loops
from tidemill.schemas.loop.json_schema import FILE, loop_json_schema_text
from tidemill.schemas.loop.labels import checked_loop, checked_loops
from tidemill.schemas.loop.loop_file import LoopFileError
from tidemill.schemas.published import (
    KafkaLoops,
    Published,
    fetch_loops,
    latest_loop,
    newest,
    produced_topics,
    publish_loop,
    retired_version,
    versions,
)
from tidemill.schemas.registry.choose import schema_store

TEMPLATE = "loop.template.yaml"


def init(
    path: Annotated[Path, typer.Argument(metavar="LOOP.yaml", help="The file to write.")] = Path(
        "loop.yaml"
    ),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write a loop file to start from, and its JSON Schema for the editor."""
    template = files("tidemill.cli").joinpath(TEMPLATE).read_text(encoding="utf-8")
    name = path.stem if path.stem != "loop" else path.resolve().parent.name
    legal = _loop_name(name)
    if legal is not None:
        template = template.replace("loop: my-loop", f"loop: {legal}")
    written = [(path, template), (path.parent / FILE, loop_json_schema_text())]
    for target, text in written:
        if target.exists() and target.read_text(encoding="utf-8") != text and not force:
            raise ConfigError(
                f"{target} exists already", hint="choose another name, or overwrite with --force"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in written:
        target.write_text(text, encoding="utf-8")
        print_text(f"wrote {target}")
    print_text(f"edit it, then: tidemill check {path}")


def check(path: LoopFileArgument, as_json: AsJson = False) -> int:
    """Say what a loop file defines, or what is wrong with it and where; exit 1 if anything is."""
    try:
        loop = checked_loop(path)
    except LoopError as error:
        if isinstance(error.__cause__, OSError):  # there is no file to find anything in
            raise
        mistakes = error.diagnostics if isinstance(error, LoopFileError) else [error]
        print_mistakes(mistakes, as_json=as_json)
        return 1
    print_loop(loop, as_json=as_json)
    return 0


def diff(
    path: LoopFileArgument,
    newer: Annotated[
        Path | None,
        typer.Argument(
            metavar="NEWER.yaml",
            help="A newer file; without it, LOOP.yaml is compared with the published loop.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show what changed: the published loop against a file, or one file against a newer one.

    Exit 1 if the newer one could not be published beside the older one.
    """
    published: Mapping[int, Loop] = {}  # of two files, neither need be published
    if newer is not None:
        old, new = checked_loop(path), checked_loop(newer)
    else:
        new = checked_loop(path)
        loops = fetch_loops(KafkaConfig.from_env(os.environ))
        published = versions(loops, new.loop)
        old = published.get(new.version, newest(loops, new.loop))
    changes = diff_loops(old, new)
    from tidemill.cli.succession import read_state, succession

    is_compatible = all(change.is_compatible for change in changes)
    state = read_state(new) if newer is None and is_compatible else None
    print_changes(old, new, changes, succession(old, new, state), as_json=as_json)
    if not is_compatible:
        return 1
    if newer is not None:
        _check_versions(old, new, newer)
    else:
        check_successor(published, new)
    return 0


def _check_versions(old: Loop, new: Loop, newer: Path) -> None:
    """Check that two files could be published one after the other, by their version numbers."""
    if new.version > old.version or (new.version == old.version and new.digest == old.digest):
        return
    raise ContractError(
        f"both files say version {new.version}, and differ"
        if new.version == old.version
        else f"{newer} says version {new.version}, which is older than {old.version}",
        hint=f"write version: {old.version + 1} in {newer}",
    )


def contracts(loop: LoopName, as_json: AsJson = False) -> None:
    """Print the Avro schemas that hold now for the events of a published loop, with their topics.

    Each has the prefix of its payloads: the marker of Avro's single-object encoding, and the
    fingerprint under which `tidemill.schemas` has the schema.
    """
    from tidemill.schemas.events.schemas import event_schemas
    from tidemill.schemas.registry.memory import MemorySchemaStore

    defined, store = latest_loop(KafkaConfig.from_env(os.environ), loop), MemorySchemaStore()
    documents = [
        {
            "topic": subject.rpartition("/")[0],
            "subject": subject,
            "prefix": store.register(subject, found).hex(),
            "schema": found,
        }
        for subject, found in event_schemas(defined).items()
    ]
    if as_json:
        print_json({"loop": defined.loop, "version": defined.version, "contracts": documents})
        return
    for document in documents:
        print_text(f"topic {document['topic']}, prefix {document['prefix']}", "bold")
        print_json(document["schema"], indent=2)


def schema() -> None:
    """Print the JSON Schema of loop files, for editors."""
    print(loop_json_schema_text(), end="")


def publish(
    paths: LoopFileArguments,
    accept_create_time: Annotated[
        bool,
        typer.Option(
            "--accept-create-time",
            help="Take topics whose records have their producer's time, not the broker's.",
        ),
    ] = False,
    with_backfill: Annotated[
        bool,
        typer.Option(
            "--backfill",
            help="Make the labels of earlier rows anew, by the label and windows of this version.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check loop files and publish each: its topics, its event schemas, its definition.

    If any of them is wrong, none is published. With TIDEMILL_LAKE set, the lake gets the tables of
    the loops, or the columns that these versions add. Before a version is published, it is said
    what it does to the models and the rows of the version before.
    """
    from tidemill.cli.commands.reprocess import make_labels_anew
    from tidemill.cli.lakes import open_lake

    loops = checked_loops(paths)
    files = {loop.digest: str(path) for loop, path in zip(loops, paths, strict=True)}
    loops.sort(key=lambda loop: (loop.loop, loop.version))
    if with_backfill:
        open_lake()  # refuse before anything is published
    config = KafkaConfig.from_env(os.environ)
    happens = _happens(loops, config)
    if not as_json:
        for each in loops:
            print_happens(each, happens[each.digest])
    stored = KafkaLoops(
        config, schema_store(config, os.environ), accept_create_time=accept_create_time
    )
    named = (lambda loop: files[loop.digest]) if len(loops) > 1 else (lambda _loop: "")
    are_new = stored.publish_all(loops, _in_lake, named=named)
    for loop, is_new in zip(loops, are_new, strict=True):
        _print_published(loop, config, happens[loop.digest], is_new=is_new, as_json=as_json)
        if with_backfill:
            make_labels_anew(loop, as_json=as_json)


def retire(loop: LoopName, why: Why, who: Who = None) -> None:
    """End a loop: publish a version of it that says that it is retired.

    Servers answer no decision of it any more, and still take feedback. Trainers drop it, and
    workers once its windows have closed. Topics and lake stay. To use it again, publish a newer
    version.
    """
    from tidemill.cli.lakes import lake_if_set

    config = KafkaConfig.from_env(os.environ)
    said = f"{person(who)}: {why}"
    retired = retired_version(latest_loop(config, loop), said)
    lake = lake_if_set()
    prepare = (lambda _loop: None) if lake is None else lake.create
    store = schema_store(config, os.environ)
    publish_loop(config, retired, store, prepare=prepare, accept_create_time=True)
    print_text(f"{loop} is retired by its version {retired.version}: {why}")
    print_text(f"  workers drop it once its windows have closed, {loop}'s topics and rows stay")
    print_text(f"  to use it again, publish version {retired.version + 1}")


def _happens(loops: Sequence[Loop], config: KafkaConfig) -> dict[str, list[str]]:
    """Return what publishing *loops* does to models and rows of the versions before, by digest."""
    nothing: dict[str, list[str]] = {loop.digest: [] for loop in loops}
    if partition_count(config, topics.LOOPS) is None:
        return nothing  # nothing was ever published
    published = fetch_loops(config)
    return nothing | {loop.digest: _happens_to(loop, published) for loop in loops}


def _happens_to(loop: Loop, published: Published) -> list[str]:
    from tidemill.cli.succession import read_state, succession

    known = versions(published, loop.loop)
    before = known.get(loop.version) or known.get(max(known, default=0))
    if before is None or any(not each.is_compatible for each in diff_loops(before, loop)):
        return []  # the first version, or one that is refused
    return succession(before, loop, read_state(loop))


def _print_published(
    loop: Loop, config: KafkaConfig, happens: list[str], *, is_new: bool, as_json: bool
) -> None:
    if as_json:
        document = {"loop": loop.loop, "version": loop.version, "digest": loop.digest}
        print_json(document | {"new": is_new, "happens": happens})
        return
    outcome = "is published" if is_new else "was published already, nothing changed"
    print_text(f"{loop.loop} version {loop.version} {outcome} at {config.bootstrap}")
    *others, last = produced_topics(loop).values()
    print_text(f"  topics {', '.join(others)} and {last}, {loop.partitions} partitions")
    print_warnings(loop)


def _in_lake(loop: Loop) -> None:
    """Create the tables and columns of *loop*, if there is a lake."""
    from tidemill.cli.lakes import lake_if_set

    if (lake := lake_if_set()) is not None:
        lake.create(loop)


def _loop_name(text: str) -> str | None:
    """Return *text* as a legal loop name, or None if too little of it is left."""
    parts = re.findall(r"[a-z0-9]+", text.lower())
    name = "-".join(parts)
    return name if name[:1].isalpha() and len(name) <= 80 else None
