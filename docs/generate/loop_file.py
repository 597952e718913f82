"""The loop-file reference: keys, types, limits and defaults come from the JSON Schema.

The schema says what a file may hold and not why, so `MEANINGS` has a sentence for each key. A key
without a sentence stops the build, and so does a sentence without its key.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from docs.generate.markdown import code, prose, table
from docs.generate.names import loop_schema

Schema = Mapping[str, Any]

TOP = "Loop"
HEADINGS = {
    TOP: "The file",
    "Decision": "decision",
    "Items": "decision.items",
    "Feature": "features",
    "Feedback": "feedback",
    "Label": "label",
    "Policy": "policy",
    "Models": "models",
    "Batch": "models.batch",
    "Retrain": "models.batch.retrain",
    "Online": "models.online",
    "Gate": "gate",
    "Rollout": "rollout",
    "ShadowStage": "rollout.shadow",
    "CanaryStage": "rollout.canary",
    "Guardrails": "rollout.guardrails",
    "MaxBad": "max_bad",
}
"""The parts of a loop file, in order; the heading of each is where it stands."""

MEANINGS: dict[str, dict[str, str]] = {
    TOP: {
        "loop": "Name of the loop: small letters, digits and dashes.",
        "version": "Version of this definition. Raise it for every change.",
        "description": "Text for people.",
        "decision": "What is decided.",
        "features": "The inputs of the model, by name: what is known at the decision.",
        "feedback": "The kinds of feedback, by name: what may come of a decision.",
        "label": "How feedback becomes the label that models learn.",
        "activation": "The kind of feedback that says that the decision took effect.",
        "grace": "How much later than due a record may still arrive.",
        "idle_after": "After so long without a record, a log no longer holds windows open.",
        "max_skew": "A record whose time is further ahead than this goes to the dead letters.",
        "max_age": "A record whose time is further back than this goes to the dead letters.",
        "remember": "How long the id of a decision is known, at least.",
        "corrections": "How long after its close feedback may revise an example; 0s for never.",
        "max_bad": "When a worker stops because too many records cannot be read.",
        "memory": "What the open windows of the loop may take in one worker.",
        "policy": "How a score becomes an action.",
        "learning": "`apprentice`: the baseline or default answers, and the policy is only logged.",
        "salt": "Text that is hashed into the chance by which decisions are explored.",
        "models": "Which learners compete.",
        "gate": "What a candidate must prove before it goes live.",
        "rollout": "The stages in which a candidate goes live; null for at once.",
        "partitions": "Partitions of the topics of the loop. Cannot change once published.",
        "rekey": "Take feedback of any key, and key it anew. Cannot change once published.",
        "retired": "Why the loop is retired: it decides no more. Empty while it is in use.",
        "budget_ms": "Milliseconds a decision may take; after that the default answers.",
    },
    "Decision": {
        "type": "The type of the action.",
        "actions": "The actions of a choice or a ranking; at least two.",
        "default": "The answer while there is no model.",
        "items": "What each request brings to choose among.",
    },
    "Items": {
        "features": "What is known of an item, by name.",
        "max": "How many items a request may bring.",
        "log": "Which items the event of a decision has: all, or those that were shown.",
    },
    "Feature": {
        "type": "The type of the value.",
        "nullable": "Whether the value may be missing.",
        "default": "Stands in for a value that is not sent.",
        "description": "Text for people.",
    },
    "Feedback": {
        "within": "How long after its decision the feedback counts.",
        "early": "How long before its decision the feedback counts, for clocks that differ.",
        "stream": "Name of a topic of its own, `<loop>.feedback.<stream>`.",
        "values": "The values the feedback carries, by name, each as a feature.",
    },
    "Label": {
        "sql": "SQL that aggregates the feedback of one decision to one value.",
        "type": "The type of the label.",
        "missing": "What a decision without a label is, once its window has closed.",
        "depends_on": "What the outcome is a matter of: the action that was taken, or the world.",
    },
    "Policy": {
        "version": "Version of the policy; it is written into each decision.",
        "kind": "How an action is chosen.",
        "threshold": "The score from which `above` is taken.",
        "above": "The action from the threshold on.",
        "below": "The action below the threshold; by default the default of the decision.",
        "epsilon": "Probability of an action at random, with and without a model.",
        "low": "Smallest action.",
        "high": "Largest action.",
        "decay": "After so many examples that the live model has learned from, half of `epsilon`.",
        "temperature": "The higher, the more evenly actions are drawn.",
        "spread": "Standard deviation of the numbers drawn around the score.",
        "width": "How many deviations a doubtful action is given the benefit of.",
        "grid": "How many points from `low` to `high` there are to take.",
    },
    "Models": {
        "batch": "The batch learner; null switches it off.",
        "online": "The online learner; null switches it off.",
    },
    "Batch": {
        "learner": "The library.",
        "min_labels": "Labels that are needed for the first model.",
        "retrain": "When to train again.",
        "holdout": "Share of the newest rows that judge the model and are not learned from.",
        "seed": "Seed of the training.",
        "params": "Parameters of LightGBM, by its own names.",
        "rounds": "Boosting rounds.",
    },
    "Retrain": {
        "new_labels": "After so many new labels.",
        "every": "After so long, in event time.",
    },
    "Online": {
        "learner": "The model.",
        "learning_rate": "Learning rate.",
        "l2": "Strength of the L2 penalty.",
        "grace_period": "Trees: rows a leaf learns between two attempts to split; null: 200, 50 in "
        "a forest.",
        "delta": "Trees: chance that a split is the wrong one; null: 1e-7, 0.01 in a forest.",
        "tau": "Trees: the bound below which equally good splits are a tie, and one is taken.",
        "max_depth": "Trees: the greatest depth; null: none.",
        "n_models": "Trees of a forest.",
        "n_factors": "Factors of each name of a factorization machine.",
        "hash_buckets": "Buckets into which the words of a category are hashed (trees, machines).",
        "seed": "Seed of what the learner draws by chance.",
        "publish_every": "Rows after which a version is offered.",
    },
    "Gate": {
        "metric": "The loss that is compared; by default that of the label's type.",
        "confidence": "Confidence with which a candidate must be better.",
        "min_rows": "Rows that are needed for a verdict.",
        "reward": "What a decision is worth: SQL over `label` and `action`.",
    },
    "Rollout": {
        "stages": "What a candidate goes through, in this order; in the last one it stays.",
        "shadow": "How long it scores decisions that others make.",
        "canary": "How long it makes a share of the decisions.",
        "control": "The share of decisions that the default or the baseline makes, for ever.",
        "guardrails": "When a candidate is stopped, and a live model falls back.",
    },
    "ShadowStage": {"rows": "Decisions that it has to score."},
    "CanaryStage": {
        "share": "The share of entities, or of decisions without one, that it decides for.",
        "rows": "Labeled decisions that it has to make.",
    },
    "Guardrails": {
        "fallbacks": "The largest share of its decisions in which it may fail or be too slow.",
        "reward": "The least gain over what it is compared with, beyond the interval of the gate.",
    },
    "MaxBad": {
        "share": "A worker stops if more than this share of records cannot be read; 1 for never.",
        "of": "How many records the share is taken of.",
    },
}


def loop_file_tables() -> str:
    """Return a section with a table for each part of a loop file."""
    schema = loop_schema()
    parts = {TOP: schema, **schema["$defs"]}
    return "\n\n".join(_section(name, _object(parts[name])) for name in HEADINGS)


def keys(part: Schema) -> dict[str, Schema]:
    """Return the keys that a part of the schema may have."""
    found: dict[str, Schema] = part["properties"]
    return found


def _object(part: Schema) -> Schema:
    """Return the long form of a part that may be written short."""
    return next(each for each in (part, *part.get("anyOf", [])) if "properties" in each)


def _section(name: str, part: Schema) -> str:
    said, found, required = MEANINGS[name], keys(part), part.get("required", ())
    if said.keys() != found.keys():
        wrong = ", ".join(sorted(said.keys() ^ found.keys()))
        raise ValueError(f"{name}: the schema and docs/generate/loop_file.py differ in {wrong}")
    rows = [
        [
            code(key),
            "<br>".join(_types(each)),
            "required" if key in required else _default(each),
            said[key],
        ]
        for key, each in found.items()
    ]
    heading = HEADINGS[name] if name == TOP else code(HEADINGS[name])
    head = ["key", "value", "default", "meaning"]
    return f"## {heading}\n\n{prose(part.get('description'))}\n\n{table(head, rows)}"


def _types(schema: Schema) -> Iterator[str]:
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            yield from _types(each)
    elif "$ref" in schema:
        part = schema["$ref"].rpartition("/")[2]
        yield _link(part) if part in HEADINGS else ", ".join(map(code, _enum(part)))
    elif "const" in schema or "enum" in schema:
        yield ", ".join(map(code, schema.get("enum") or [schema["const"]]))
    elif schema["type"] == "array":
        yield f"list of {' or '.join(_types(schema['items']))}"
    elif schema["type"] == "object":
        patterns = schema.get("patternProperties", {}).values()
        items = [schema["additionalProperties"], *patterns]
        yield f"map of {' or '.join(kind for each in items if each for kind in _types(each))}"
    else:
        yield _plain(schema)


def _link(part: str) -> str:
    anchor = HEADINGS[part].replace(".", "").replace(" ", "-").lower()
    return f"[{HEADINGS[part]}](#{anchor})"


def _enum(part: str) -> list[str]:
    listed: list[str] = loop_schema()["$defs"][part]["enum"]
    return listed


def _plain(schema: Schema) -> str:
    if "kB" in schema.get("pattern", ""):
        return "size"
    if "(ms|s|m|h|d)" in schema.get("pattern", ""):
        return "duration"
    bounds = {"minimum": "≥", "exclusiveMinimum": "\\>", "maximum": "≤", "exclusiveMaximum": "\\<"}
    said = [f"{sign} {_number(schema[name])}" for name, sign in bounds.items() if name in schema]
    kind = str(schema["type"])
    return ", ".join(["text" if kind == "string" else kind, *said])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if value in (None, "", {}) or isinstance(value, dict):
        return ""
    return code(value if isinstance(value, str) else json.dumps(value))
