"""Fills the row of a model from the features of a decision, without a list in between.

The numbers are those of `FeatureSignature.encode_row`, bit for bit, in a third of the time: the
features of a decision are already checked and in the order of the loop, so numbers need no
conversion, and only nullable ones need a test for None. Which position a feature has is looked up
by its name once, when the function is made.
"""

from collections.abc import Callable, Collection, Sequence

from tidemill.schemas.code import compiled
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.models.feature_signature import FeatureSignature

Fill = Callable[[tuple[object, ...]], None]
Flatten = Callable[[tuple[object, ...], Sequence[tuple[object, ...]]], list[float]]

_NAN = float("nan")


def row_filler(
    signature: FeatureSignature,
    nullable: Collection[str],
    pack: Callable[..., None],
    names: Sequence[str] | None = None,
) -> Fill:
    """Return the function that passes the numbers of a decision to *pack*.

    The source compiled here contains no feature name, so a name cannot become code.

    Args:
        signature: what the model reads.
        nullable: the features that may be None.
        pack: called with one argument for each column.
        names: the features of a decision, in the order in which the function takes them; among them
            are those of the signature. None if they are exactly those.
    """
    scope: dict[str, object] = {"pack": pack, "nan": _NAN}
    taken = [field.name for field in signature.fields] if names is None else list(names)
    terms = ", ".join(_terms(signature, nullable, taken, scope))
    values = ", ".join(f"x{place}" for place in range(len(taken)))
    source = f"def fill(features):\n    {values}, = features\n    pack({terms})"
    exec(compiled(source, "<row filler>"), scope)
    return scope["fill"]  # type: ignore[return-value]  # defined by the line above


def rows_flattener(
    signature: FeatureSignature,
    nullable: Collection[str],
    names: Sequence[str],
    own: Sequence[str],
) -> Flatten:
    """Return the function that makes one list of numbers of a decision and its items.

    It takes the features of the decision, in the order of *names*, and those of each item, in the
    order of *own*. What depends on the decision alone is computed once.
    """
    scope: dict[str, object] = {"nan": _NAN}
    taken = [*names, *own]
    terms, shared = [], []
    fields = zip(signature.fields, _terms(signature, nullable, taken, scope), strict=True)
    for number, (field, term) in enumerate(fields):
        if field.name in own:
            terms.append(term)
            continue
        shared.append(f"    c{number} = {'[' + term + ']' if term.startswith('*') else term}\n")
        terms.append(f"*c{number}" if term.startswith("*") else f"c{number}")
    values = [f"x{place}" for place in range(len(taken))]
    source = (
        f"def flatten(features, rows):\n    {', '.join(values[: len(names)])}, = features\n"
        f"{''.join(shared)}"
        f"    return [value for {', '.join(values[len(names) :])}, in rows\n"
        f"            for value in ({', '.join(terms)},)]"
    )
    exec(compiled(source, "<rows flattener>"), scope)
    return scope["flatten"]  # type: ignore[return-value]  # defined by the line above


def _terms(
    signature: FeatureSignature,
    nullable: Collection[str],
    taken: Sequence[str],
    scope: dict[str, object],
) -> list[str]:
    """Return the expression of each feature over x0, x1, ...; *scope* gets what they call."""
    terms = []
    for field in signature.fields:
        place = taken.index(field.name)
        value = f"x{place}"
        if field.type is FieldType.CATEGORY:
            codes = {word: float(code) for code, word in enumerate(field.vocabulary)}
            scope[f"f{place}"] = codes.get
            terms.append(f"f{place}({value}, nan)")
        elif field.type in (FieldType.CATEGORIES, FieldType.TIMESTAMP):
            scope[f"n{place}"] = field.name
            scope[f"f{place}"] = FeatureSignature((field,)).encode_row
            terms.append(f"*f{place}({{n{place}: {value}}})")
        elif field.name in nullable:
            terms.append(f"nan if {value} is None else {value}")
        else:
            terms.append(value)
    return terms
