"""Commands around a loop file: ``init``, ``check``, ``diff``, ``schema`` and ``publish``.

Each parses its arguments, calls one function of `schemas/`, and prints. Errors travel as they are.
"""

import json
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tidemill.errors import ConfigError, ContractError, LoopError
from tidemill.kafka import KafkaConfig
from tidemill.schemas.loop.definition import Feedback, Loop
from tidemill.schemas.loop.diff import Change, check_successor, diff_loops
from tidemill.schemas.loop.durations import told_duration
from tidemill.schemas.loop.json_schema import FILE, loop_json_schema_text
from tidemill.schemas.loop.labels import check_label, compile_label
from tidemill.schemas.loop.loop_file import LoopFileError, read_file
from tidemill.schemas.published import fetch_loops, newest, produced_topics, publish_loop, versions
from tidemill.schemas.registry.choose import schema_store

TEMPLATE = "loop.template.yaml"
LoopFileArgument = Annotated[Path, typer.Argument(metavar="LOOP.yaml", help="a loop file")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]


def checked_loop(path: Path) -> Loop:
    """Return the loop of the file at *path*, with its label checked too.

    Raises:
        LoopError: the file or its label is wrong; with file, line and hint.
    """
    read = read_file(path)
    check_label(read)
    return read.loop


def init(
    path: Annotated[Path, typer.Argument(metavar="LOOP.yaml")] = Path("loop.yaml"),
    force: Annotated[bool, typer.Option("--force", help="overwrite existing files")] = False,
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
        print(f"wrote {target}")
    print(f"edit it, then: tidemill check {path}")


def check(path: LoopFileArgument, as_json: AsJson = False) -> None:
    """Say what a loop file defines, or what is wrong with it and where; exit status 1 if it is."""
    try:
        loop = checked_loop(path)
    except LoopError as error:
        found = error.diagnostics if isinstance(error, LoopFileError) else [error]
        if as_json:
            rows = [{"file": e.file, "line": e.line, "what": e.what, "hint": e.hint} for e in found]
            print(json.dumps({"ok": False, "mistakes": rows}, indent=2))
        else:
            for one in found:
                typer.echo(str(one), err=True)
        raise typer.Exit(1) from None
    if as_json:
        told = {"ok": True, "loop": loop.loop, "version": loop.version, "digest": loop.digest}
        print(json.dumps(told | {"label": compile_label(loop)}, indent=2))
    else:
        Console().print(summary(loop), markup=False, highlight=False, soft_wrap=True)


def summary(loop: Loop) -> str:
    """Return the loop in a few lines, for a person who wants to see that it was understood."""
    kinds = ", ".join(_kind(name, kind) for name, kind in loop.feedback.items())
    nullable = sum(feature.nullable for feature in loop.features.values())
    answers = " | ".join(loop.decision.actions) or loop.decision.type
    learners = [m.learner for m in (loop.models.batch, loop.models.online) if m is not None]
    label = f"\n{' ' * 13}".join(line.strip() for line in loop.label.sql.strip().splitlines())
    waits = f"{told_duration(loop.wait + loop.grace)} of event time after each decision"
    if loop.corrections:
        waits += f", corrected up to {told_duration(loop.corrections)} later"
    counts = f"once there is {loop.activation} feedback" if loop.activation else "always"
    return "\n".join(
        [
            f"{loop.loop} version {loop.version} is legal  (digest {loop.digest[:12]})",
            f"  decides    {answers}, by default {loop.decision.default}",
            f"  features   {len(loop.features)}, of which {nullable} may be null",
            f"  feedback   {kinds}",
            f"  label      {label}  ({loop.label.type})",
            f"  no label   {loop.label.missing}",
            f"  counts     {counts}",
            f"  closes     {waits}",
            f"  models     {', '.join(learners) or 'none'}; gate on {loop.gate.metric}",
            f"  topics     {', '.join(produced_topics(loop).values())}",
        ]
    )


def _kind(name: str, kind: Feedback) -> str:
    by = "" if kind.stream is None else f" by stream {kind.stream}"
    return f"{name} within {told_duration(kind.within)}{by}"


def diff(
    path: LoopFileArgument,
    other: Annotated[
        Path | None, typer.Argument(metavar="[NEWER.yaml]", help="default: the published version")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed: the published loop against a file, or one file against a newer one.

    Exit status 1 if the newer one could not be published beside the older.
    """
    known: Mapping[int, Loop] = {}  # of two files, neither need be published
    if other is not None:
        old, new = checked_loop(path), checked_loop(other)
    else:
        new = checked_loop(path)
        published = fetch_loops(KafkaConfig.from_env(os.environ))
        known = versions(published, new.loop)
        old = known.get(new.version, newest(published, new.loop))
    changes = diff_loops(old, new)
    if as_json:
        rows = [
            {
                "path": change.path,
                "old": _plain(change.old),
                "new": _plain(change.new),
                "compatible": change.is_compatible,
                "problem": change.problem,
                "hint": change.hint,
            }
            for change in changes
        ]
        print(json.dumps({"old": old.version, "new": new.version, "changes": rows}, indent=2))
    else:
        for change in changes:
            print(_line(change))
        if not changes:
            print(f"{old.loop}: no difference")
    if any(not change.is_compatible for change in changes):
        raise typer.Exit(1)
    if other is not None:
        _check_versions(old, new, other)
    else:
        check_successor(known, new)


def _check_versions(old: Loop, new: Loop, newer: Path) -> None:
    """Check that two files could be published one after the other, by their version numbers."""
    if new.version > old.version or (new.version == old.version and new.digest == old.digest):
        return
    raise ContractError(
        f"both files say version {new.version}, and differ"
        if new.version == old.version
        else f"{newer} says version {new.version}, which is older than {old.version}",
        hint=f"write version: {old.version + 1} in {newer}, if the other one is to stand beside it",
    )


def schema() -> None:
    """Print the JSON Schema of loop files, for editors."""
    print(loop_json_schema_text(), end="")


def publish(path: LoopFileArgument, as_json: AsJson = False) -> None:
    """Check a loop file and publish it: its topics, its event schemas, its definition."""
    loop = checked_loop(path)
    config = KafkaConfig.from_env(os.environ)
    is_new = publish_loop(config, loop, schema_store(config, os.environ))
    if as_json:
        told = {"loop": loop.loop, "version": loop.version, "digest": loop.digest, "new": is_new}
        print(json.dumps(told))
        return
    said = "is published" if is_new else "was published already, nothing changed"
    print(f"{loop.loop} version {loop.version} {said} at {config.bootstrap}")
    *others, last = produced_topics(loop).values()
    print(f"  topics {', '.join(others)} and {last}, {loop.partitions} partitions")


def _loop_name(text: str) -> str | None:
    """Return *text* as a legal loop name, or None if too little of it is left."""
    parts = re.findall(r"[a-z0-9]+", text.lower())
    name = "-".join(parts)
    return name if name[:1].isalpha() and len(name) <= 80 else None


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | list | None) else str(value)


def _line(change: Change) -> str:
    sign = " " if change.is_compatible else "!"
    if change.old is None:
        text = f"{sign} + {change.path}: {change.new}"
    elif change.new is None:
        text = f"{sign} - {change.path}: {change.old}"
    else:
        text = f"{sign} ~ {change.path}: {change.old} -> {change.new}"
    return (
        text if change.is_compatible else f"{text}\n    {change.problem}\n    hint: {change.hint}"
    )
