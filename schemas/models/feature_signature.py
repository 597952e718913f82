"""The feature signature: which numbers, in which order, a model was trained to read.

The signature is published with the model, so a worker encodes the features of a decision to exactly
the numbers of the training: `FeatureSignature.encode_row` (serving) and
`FeatureSignature.encode_frame` (training) agree bit for bit.

The encoding to float64: a float or int is itself, a bool is 0 or 1, a timestamp is seconds since
1970, a category is its index in the sorted vocabulary, a list of categories is one 0/1 column per
item of its vocabulary. Null is NaN, and so is a category outside the vocabulary.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tidemill.errors import ModelError
from tidemill.schemas.code import compiled
from tidemill.schemas.loop.definition import FieldType, Loop

ACTION = "action"  # the extra feature where a model scores actions: the action
MAX_CATEGORIES = 4_096  # of a vocabulary; the most frequent ones are taken
MAX_ITEMS = 256  # the same for a list of categories, each of which is a column
MAX_WORD_BYTES = 256  # a longer word is free text and not in the vocabulary
MAX_FEATURES = 4_096
MAX_JSON_BYTES = 400_000  # what fits into a manifest beside everything else
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_NAN = math.nan

FeatureRow = Mapping[str, object]
RowEncoder = Callable[[FeatureRow], list[float]]


@dataclass(frozen=True, slots=True)
class SignatureField:
    """One feature: its name, its type, and for categories the sorted vocabulary."""

    name: str
    type: FieldType
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or "=" in self.name:
            raise ValueError(f"a feature cannot be called {self.name!r}")
        if len(self.vocabulary) > MAX_CATEGORIES:
            raise ValueError(f"{self.name} has {len(self.vocabulary)} words")
        if any(a >= b for a, b in zip(self.vocabulary, self.vocabulary[1:], strict=False)):
            raise ValueError(f"the words of {self.name} are not sorted and distinct")
        if self.vocabulary and self.type not in (FieldType.CATEGORY, FieldType.CATEGORIES):
            raise ValueError(f"{self.name} is of type {self.type} and has a vocabulary")

    @property
    def columns(self) -> list[str]:
        """The names of the model's input columns for this feature."""
        if self.type is FieldType.CATEGORIES:
            return [f"{self.name}.{i}" for i in range(len(self.vocabulary))]
        return [self.name]


@dataclass(frozen=True)
class FeatureSignature:
    """The features of one model in order; equal signatures have equal digests.

    >>> signature = FeatureSignature((
    ...     SignatureField("hour", FieldType.INT),
    ...     SignatureField("carrier", FieldType.CATEGORY, ("AA", "UA")),
    ... ))
    >>> signature.encode_row({"hour": 17, "carrier": "UA"})
    [17.0, 1.0]
    """

    fields: tuple[SignatureField, ...]
    encode_row: RowEncoder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [item.name for item in self.fields]
        if not names or len(names) > MAX_FEATURES or len(set(names)) != len(names):
            raise ValueError(f"a signature needs distinct features, at least one: {names[:20]}")
        object.__setattr__(self, "encode_row", _row_encoder(self.fields))

    @classmethod
    def of_loop(cls, loop: Loop) -> Self:
        """Return the signature of *loop* with empty vocabularies, on which to call `fit`."""
        fields = [SignatureField(name, item.type) for name, item in loop.model_features.items()]
        if loop.scores_actions:
            fields.append(SignatureField(ACTION, FieldType.CATEGORY))
        return cls(tuple(fields))

    @property
    def reads_action(self) -> bool:
        """Whether the model scores an action, which is its last feature then."""
        return self.fields[-1].name == ACTION

    def fit(self, frame: pl.DataFrame) -> "FeatureSignature":
        """Return this signature with the vocabularies of *frame*, flat feature columns by name.

        Beyond `MAX_CATEGORIES` (`MAX_ITEMS` for lists) only the most frequent words are taken, and
        fewer if all vocabularies together would not fit into a manifest.
        """
        limit = MAX_CATEGORIES
        while True:
            fitted = FeatureSignature(tuple(_fitted(item, frame, limit) for item in self.fields))
            if len(fitted.to_json()) <= MAX_JSON_BYTES or limit == 1:
                return fitted
            limit //= 2

    @cached_property
    def columns(self) -> list[str]:
        """The column names of the model's input, in order."""
        return [name for item in self.fields for name in item.columns]

    @cached_property
    def categorical(self) -> list[int]:
        """The indexes of the columns of category numbers, which the learner must know."""
        kinds = {item.name for item in self.fields if item.type is FieldType.CATEGORY}
        return [index for index, name in enumerate(self.columns) if name in kinds]

    def encode_columns(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the model's input columns (float64) for *frame*, flat feature columns by name."""
        encoded: list[pl.Expr] = []
        for item in self.fields:
            encoded.extend(_expressions(item))
        return frame.select(encoded)

    def encode_frame(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        """Return the model's input, shape (rows, columns), with the same bits as `encode_row`.

        Raises:
            polars.exceptions.ColumnNotFoundError: *frame* lacks a feature.
        """
        return self.encode_columns(frame).to_numpy()

    def to_json(self) -> str:
        """Return the canonical JSON; `from_json` turns it back into an equal value."""
        fields = [
            {"name": item.name, "type": item.type.value, "vocabulary": list(item.vocabulary)}
            for item in self.fields
        ]
        value = {"signature": 1, "fields": fields}
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ModelError: it is not a feature signature, or larger than `MAX_JSON_BYTES`.
        """
        try:
            if len(text) > MAX_JSON_BYTES:
                raise ValueError(f"{len(text)} characters are over {MAX_JSON_BYTES}")
            value = json.loads(text)
            if value["signature"] != 1:
                raise ValueError(f"unknown signature format {value['signature']!r}")
            return cls(tuple(_parsed(item) for item in value["fields"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ModelError(
                f"the feature signature of a model cannot be read: {error!r}",
                hint="publish the model again with `tidemill train LOOP --once`",
            ) from error

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def scored_actions(loop: Loop) -> list[str]:
    """Return the actions that a model of *loop* scores, as it reads them, if it scores any."""
    return (loop.decision.actions or ["false", "true"]) if loop.scores_actions else []


def action_text(action: object) -> str:
    """Return *action* as a model reads it; of a ranking that is the first.

    >>> action_text(True), action_text(["b", "a"])
    ('true', 'b')
    """
    if isinstance(action, bool):
        return "true" if action else "false"
    return str(action[0]) if isinstance(action, list) else str(action)


def _parsed(item: Mapping[str, object]) -> SignatureField:
    vocabulary = item["vocabulary"]
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise ValueError(f"the vocabulary of {item['name']!r} is not a list of words")
    return SignatureField(str(item["name"]), FieldType(str(item["type"])), tuple(vocabulary))


def _fitted(item: SignatureField, frame: pl.DataFrame, limit: int) -> SignatureField:
    if item.type is FieldType.CATEGORY:
        words = frame.get_column(item.name)
    elif item.type is FieldType.CATEGORIES:
        words = frame.get_column(item.name).explode(empty_as_null=True)
        limit = min(limit, MAX_ITEMS)
    else:
        return item
    known = words.drop_nulls().cast(pl.String)
    counts = known.filter(known.str.len_bytes() <= MAX_WORD_BYTES).value_counts(name="n")
    kept = counts.sort(["n", item.name], descending=[True, False]).head(limit)
    return SignatureField(item.name, item.type, tuple(sorted(kept.get_column(item.name).to_list())))


def _expressions(item: SignatureField) -> list[pl.Expr]:
    column = pl.col(item.name)
    match item.type:
        case FieldType.CATEGORY:
            codes = {word: float(place) for place, word in enumerate(item.vocabulary)}
            known = column.cast(pl.String).replace_strict(
                list(codes), list(codes.values()), default=_NAN, return_dtype=pl.Float64
            )
            return [(known if codes else pl.lit(_NAN)).alias(item.name)]
        case FieldType.CATEGORIES:
            held = [column.list.contains(pl.lit(word)) for word in item.vocabulary]
            names = item.columns
            return [
                one.cast(pl.Float64).fill_null(_NAN).alias(name)
                for one, name in zip(held, names, strict=True)
            ]
        case FieldType.TIMESTAMP:
            micros = column.cast(pl.Datetime("us", "UTC")).cast(pl.Int64)
            whole = (micros // 1_000_000).cast(pl.Float64)
            rest = (micros % 1_000_000).cast(pl.Float64)
            return [(whole + rest * 1e-6).fill_null(_NAN).alias(item.name)]
        case _:
            return [column.cast(pl.Float64).fill_null(_NAN).alias(item.name)]


def seconds(value: datetime) -> float:
    """Return *value* as seconds since 1970, to the microsecond; *value* has a time zone."""
    whole, rest = divmod((value - _EPOCH) // _MICRO, 1_000_000)
    return whole + rest * 1e-6  # not micros / 1e6: Polars multiplies by the inverse instead


def _items(vocabulary: Sequence[str]) -> Callable[[object], list[float]]:
    size = len(vocabulary)
    unknown = [_NAN] * size

    def encode(value: object) -> list[float]:
        if value is None:
            return unknown
        held = set(value) if isinstance(value, list | tuple) else set()
        return [1.0 if word in held else 0.0 for word in vocabulary]

    return encode


def _row_encoder(fields: Sequence[SignatureField]) -> RowEncoder:
    """Compile one expression for all features; a loop over 16 of them would take twice as long.

    Names enter the source only as constants of the namespace, so no name can become code.
    """
    scope: dict[str, object] = {"nan": _NAN, "seconds": seconds}
    terms = []
    for place, item in enumerate(fields):
        scope[f"n{place}"] = item.name
        value = f"(v := get(n{place}))"
        match item.type:
            case FieldType.CATEGORY:
                codes = {word: float(code) for code, word in enumerate(item.vocabulary)}
                scope[f"f{place}"] = codes.get
                terms.append(f"f{place}(get(n{place}), nan)")
            case FieldType.CATEGORIES:
                scope[f"f{place}"] = _items(item.vocabulary)
                terms.append(f"*f{place}(get(n{place}))")
            case FieldType.TIMESTAMP:
                terms.append(f"nan if {value} is None else seconds(v)")
            case _:
                terms.append(f"nan if {value} is None else float(v)")
    source = f"def encode(row):\n    get = row.get\n    return [{', '.join(terms)}]"
    exec(compiled(source, "<feature signature>"), scope)
    return scope["encode"]  # type: ignore[return-value]  # defined by the line above
