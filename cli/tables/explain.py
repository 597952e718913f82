"""What a decision was made of, and what a model needs."""

from collections.abc import Iterator

from tidemill.cli.terminal import (
    WRONG,
    add_row,
    new_table,
    print_json,
    print_table,
    print_text,
    shown,
)
from tidemill.deploy.explain.explanation import Explanation
from tidemill.deploy.explain.remade import bits
from tidemill.trainers.evaluation.importance import ModelImportance
from tidemill.trainers.evaluation.metrics import METRIC_NAMES

_WIDTH = 12  # of the first column
_MOST_ITEMS = 30  # a request may bring a thousand
_ANSWER = ("action", "score", "propensity", "propensities", "policy_action", "source")


def print_explanation(found: Explanation, *, as_json: bool) -> None:
    """Print *found*: the answer logged and made again, then the parts of its score."""
    if as_json:
        print_json(found.to_json())
        return
    logged = found.logged
    print_text(f"decision {logged.id} of {logged.loop.loop}, {shown(logged.at)}", "bold")
    _print_answers(found)
    for word, text in _facts(found):
        print_text(f"  {word:<{_WIDTH}}{text}")
    _print_items(found)
    _print_parts(found)
    for name in found.differences:
        print_text(f"{name} is not what the log says: see the table of answers", WRONG)


def _print_answers(found: Explanation) -> None:
    table = new_table("answer", "logged", "computed again")
    logged, remade = found.logged.answer, found.remade
    for name in (*_ANSWER, "model_version"):
        if name == "propensities" and found.logged.items:
            continue  # each item has its own, in the table of items
        values = [getattr(logged, name), None if remade is None else getattr(remade, name)]
        if values != [None, None]:
            style = WRONG if name in found.differences else None
            add_row(table, name, *map(_exact, values), style=style)
    print_table(table)


def _facts(found: Explanation) -> Iterator[tuple[str, str]]:
    loop, model = found.logged.loop, found.model
    policy = f"{loop.policy.kind}, version {loop.policy.version}: {found.policy}"
    yield "policy", f"{policy} (loop version {loop.version})"
    yield "explored", found.exploration
    if loop.learning == "apprentice":
        yield "learning", "apprentice: the default is the answer, whatever the policy would do"
    if found.logged.rule_version is not None:
        yield "rules", f"version {found.logged.rule_version}{_ruled(found)}"
    if found.logged.baseline is not None:
        yield "baseline", shown(_plain(found.logged.baseline))
    if found.logged.verdict is not None:
        yield "verdict", f"{found.logged.verdict}: it does not count"
    if model is not None:
        learned = f"{model.version} of {shown(model.at)}, from {model.trained_on_rows:,} rows"
        until = "" if model.until is None else f", known until {shown(model.until)}"
        yield "model", f"{learned}{until}, examples version {model.snapshot}"
        yield "gate", model.reason
    if found.nothing_more:
        yield "not again" if found.scored else "no parts", found.nothing_more


def _ruled(found: Explanation) -> str:
    """Return what the rules have changed, if anything."""
    answer = found.logged.answer
    if answer.policy_action is None or found.logged.loop.learning == "apprentice":
        return ""
    return f" put it in the place of {shown(_plain(answer.policy_action))}"


def _print_items(found: Explanation) -> None:
    """Print the items: those shown in their order, then the others by their scores."""
    items, scores = found.logged.items, found.item_scores
    if not items:
        return
    made = found.remade
    numbers = ("position", "score", "propensity", "computed again")
    table = new_table("item", *numbers, numbers=numbers)
    last = len(items)

    def order(place: int) -> tuple[int, float]:
        position = items[place].position
        return last if position is None else position, -scores.get(items[place].id, 0.0)

    places = sorted(range(last), key=order)
    for place in places[:_MOST_ITEMS]:
        item = items[place]
        again = None if made is None or made.propensities is None else made.propensities[place]
        where = None if made is None or made.positions is None else made.positions[place]
        is_wrong = made is not None and bits([again, where]) != bits(
            [item.propensity, item.position]
        )
        values = (item.position, scores.get(item.id), item.propensity, again)
        add_row(table, item.id, *map(_exact, values), style=WRONG if is_wrong else None)
    print_table(table)
    if last > _MOST_ITEMS:
        print_text(f"and {last - _MOST_ITEMS} more items; all of them with --json")


def _print_parts(found: Explanation) -> None:
    if not found.scored:
        return
    heads = ["adds" if each.action is None else f"adds to {each.action}" for each in found.scored]
    table = new_table("feature", "value", *heads, numbers=heads)
    first, *others = found.scored
    for name in sorted(first.contributions, key=lambda name: -abs(first.contributions[name])):
        values = [each.features[name] for each in found.scored if name in each.features]
        value = " | ".join(dict.fromkeys(map(_exact, values))) or "the action itself"
        add_row(table, name, value, *(f"{each.contributions[name]:+.4f}" for each in found.scored))
    add_row(table, "without any", "", *(f"{each.base:+.4f}" for each in found.scored))
    add_row(table, "raw score", "", *(f"{each.raw:+.4f}" for each in found.scored), style="bold")
    add_row(table, "predicts", "", *(f"{each.score:.4f}" for each in found.scored), style="bold")
    print_table(table)
    if others and found.logged.loop.policy.kind == "threshold":
        print_text(
            f"the policy compares the difference, {first.score - others[0].score:+.4f} for "
            f"{first.action}, with the threshold"
        )


def _exact(value: object) -> str:
    """Return *value* with all of its digits."""
    return repr(value) if isinstance(value, float) else shown(_plain(value))


def _plain(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def print_importance(found: ModelImportance, *, as_json: bool) -> None:
    """Print what each feature is worth to a model, the most important one first."""
    if as_json:
        print_json(found.to_json())
        return
    metric = METRIC_NAMES[found.metric]
    numbers = ["gain", f"{metric} grows by", "least", "most"]
    title = f"{found.version} of {found.loop}"
    table = new_table("feature", *numbers, numbers=numbers, title=title)
    for each in found.features:
        gain = None if each.gain is None else f"{each.gain:.1%}"
        add_row(table, each.name, gain, *(f"{value:+.5f}" for value in each.spread))
    print_table(table)
    print_text(
        f"the {metric} is {found.loss:.5f} on {found.rows:,} rows from {shown(found.first_at)} to "
        f"{shown(found.last_at)}, which the model has not learned; {found.repeats} shuffles"
    )
