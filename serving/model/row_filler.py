"""Fills the row of a model from the features of a decision, without a list in between.

The numbers are those of `FeatureSignature.encode_row`, bit for bit, in a third of the time: the
features of a decision are already checked and in the order of the loop, so numbers need no
conversion, and only nullable ones need a test for None. Which position a feature has is looked up
by its name once, when the function is made.
"""

from collections.abc import Callable, Collection, Sequence

from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.models.feature_signature import FeatureSignature

Fill = Callable[[tuple[object, ...]], None]

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
    terms = []
    taken = [field.name for field in signature.fields] if names is None else list(names)
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
    values = ", ".join(f"x{place}" for place in range(len(taken)))
    source = f"def fill(features):\n    {values}, = features\n    pack({', '.join(terms)})"
    exec(compile(source, "<row filler>", "exec"), scope)
    return scope["fill"]  # type: ignore[return-value]  # defined by the line above
