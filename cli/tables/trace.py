"""The life of one decision."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from tidemill.cli.terminal import print_json, print_text, shown
from tidemill.features.sql.positions import shown_positions
from tidemill.monitor.lineage import Use
from tidemill.monitor.trace import Entry, Trace
from tidemill.schemas.loop.durations import told_duration

_WIDTH = 11  # of the first column
_NO_FILE = "a file that no statistics name"


def print_trace(found: Trace, *, as_json: bool) -> None:
    """Print *found* from the decision to the models, or as one JSON document."""
    if as_json:
        print_json(found.to_json())
        return
    print_text(f"decision {found.id} of {found.loop}", "bold")
    for word, text in _lines(found):
        print_text(f"  {word:<{_WIDTH}}{text}")


def _lines(found: Trace) -> Iterator[tuple[str, str]]:
    for entry in found.decisions:
        yield from _decision(entry)
        yield from _shown_items(entry, found)
    if found.made_by is not None:
        promoted = "was live" if found.made_by.promoted else "never was live"
        at = shown(found.made_by.at)
        yield "made by", f"{found.made_by.version} of {at}, {promoted}: {found.made_by.reason}"
    yield from _window(found)
    for entry in _by_item(found):
        yield from _feedback(entry, found)
    if not found.feedback:
        yield "feedback", "none yet"
    for entry in found.examples:
        if entry.row.get("position") is None:  # others stand with their items
            yield "example", _outcome(entry, found)
            yield "lies in", entry.file or _NO_FILE
    yield from _models(found.uses, has_example=bool(found.examples))


def _decision(entry: Entry) -> Iterator[tuple[str, str]]:
    row = entry.row
    by = f"by {row['source']}" + (f" {row['model_version']}" if row["model_version"] else "")
    facts = [f"{name} {row[name]}" for name in ("score", "propensity") if row[name] is not None]
    versions = f"policy {row['policy_version']}, loop version {row['loop_version']}"
    answer = ", ".join([f"{row['action']} {by}", *facts, versions])
    yield "decided", f"{shown(row['at'])}: {answer}"
    if row.get("entity") is not None:
        yield "", f"entity {row['entity']}"
    features = row["features"]
    if isinstance(features, Mapping):
        yield "", ", ".join(f"{name} {_shown(value)}" for name, value in features.items())
    yield from _read(entry)
    since = f" since it came in, {shown(row['ingested_at'])}" if entry.state == "open" else ""
    yield "state", f"{entry.state}{since}"


def _read(entry: Entry) -> Iterator[tuple[str, str]]:
    row = entry.row
    place = f"{row['topic']}/{row['partition']} offset {entry.offset}"
    before = shown(row["stream_time"]) if row["stream_time"] else "nothing"
    verdict = f", verdict {row['verdict']}" if row["verdict"] else ""
    came = f"came in {shown(row['ingested_at'])}, stream time before it {before}"
    yield "read", f"{place}, {came}{verdict}"
    yield "lies in", entry.file or _NO_FILE


def _shown_items(entry: Entry, found: Trace) -> Iterator[tuple[str, str]]:
    """Yield the items that a decision has shown, each with its example; nothing if it has none."""
    placed = _placed(entry)
    if "items" in entry.row:
        yield "items", f"{len(_items_of(entry))} logged, {len(placed)} of them shown"
    made = [each for each in found.examples if each.place[:2] == entry.place[:2]]
    for position, item in placed.items():
        facts = {"propensity": item["propensity"], **(item["features"] or {})}
        told = ", ".join(f"{name} {_shown(value)}" for name, value in facts.items())
        yield f"shown {position}", f"{item['id']}: {told}"
        for example in made:
            if example.row["position"] == position:
                yield "", _outcome(example, found)
    for file in dict.fromkeys(each.file for each in made if each.row.get("position") is not None):
        yield "lie in", file or _NO_FILE


def _placed(entry: Entry) -> dict[int, Mapping[str, Any]]:
    """Return the item at each position, in their order; of several at one, the first was shown."""
    placed: dict[int, Mapping[str, Any]] = {}
    for item in _items_of(entry):
        if item["position"] is not None:
            placed.setdefault(item["position"], item)
    return dict(sorted(placed.items()))


def _items_of(entry: Entry) -> Sequence[Mapping[str, Any]]:
    items = entry.row.get("items")
    return items if isinstance(items, list) else []


def _by_item(found: Trace) -> Sequence[Entry]:
    """Return the feedback in the order of the items, then that of all items, then of others."""
    position: dict[object, int] = {
        item["id"]: at for entry in found.decisions for at, item in _placed(entry).items()
    }
    last = 1 + max(position.values(), default=0)

    def order(entry: Entry) -> int:
        item = entry.row.get("item")
        return last if item is None else position.get(item, last + 1)

    return sorted(found.feedback, key=order)


def _window(found: Trace) -> Iterator[tuple[str, str]]:
    window = found.window
    if window is None:
        return
    for kind, (first, last) in window.kinds.items():
        yield "window", f"{kind} from {shown(first)} to {shown(last)}"
    start, end = window.bucket
    count = len(window.stream_times)
    logs = "both logs" if count == 2 else f"all {count} logs"
    yield (
        "closes",
        f"when {logs} are past {shown(window.closes)}, with {shown(start)} to {shown(end)}",
    )
    frontier = "nothing yet" if window.frontier is None else f"up to {shown(window.frontier)}"
    yield "closed", f"{frontier} in its partition"
    for log, behind in window.waits_for.items():
        at = window.stream_times[log]
        stands = "nothing read yet" if at is None else f"stands at {shown(at)}"
        rest = "" if behind is None else f", {told_duration(behind)} of event time to go"
        yield "waits for", f"{log}: {stands}{rest}"


def _feedback(entry: Entry, found: Trace) -> Iterator[tuple[str, str]]:
    row = entry.row
    at = row["at"]
    made = [each.row["at"] for each in found.decisions]
    after = ""
    if made and isinstance(at, datetime) and isinstance(made[-1], datetime):
        lag = at - made[-1]
        after = f", {told_duration(abs(lag))} {'after' if lag >= lag * 0 else 'before'} it"
    values = row["values"]
    facts = (
        "".join(f", {name} {_shown(value)}" for name, value in values.items() if value is not None)
        if isinstance(values, Mapping)
        else ""
    )
    item = (
        "" if "item" not in row else f" of item {row['item']}" if row["item"] else " of all shown"
    )
    yield "feedback", f"{row['kind']} {row['id']}{item} at {shown(at)}{after}{facts}: {entry.state}"
    yield from _read(entry)


def _outcome(entry: Entry, found: Trace) -> str:
    """Return what an example ended as."""
    row = entry.row
    label = "no label" if row["label"] is None else f"label {_shown(row['label'])}"
    offsets = shown_positions(str(row["feedback_offsets"]), found.logs)
    revision = row.get("revision") or 0
    return f"{entry.state}, {label}, of feedback at offsets {offsets}, revision {revision}"


def _models(uses: Sequence[Use], *, has_example: bool) -> Iterator[tuple[str, str]]:
    for use in uses:
        model = use.model
        what = {"learned": "learned it", "judged by": "was judged by it"}.get(
            use.role, "had it, but left it out: too young to be known"
        )
        revision = "" if use.revision in (None, 0) else f" in revision {use.revision}"
        sure = "" if use.is_sure else "; probably, for that version is gone"
        yield "model", f"{model.version} {what}{revision} (examples version {model.snapshot}{sure})"
    if has_example and not uses:
        yield "model", "none has learned it"


def _shown(value: object) -> str:
    return "null" if value is None else shown(str(value) if isinstance(value, int) else value)
