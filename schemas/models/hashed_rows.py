"""Rows for learners whose vocabulary is bounded: words are hashed into a fixed number of buckets.

`RowMapping` has a name for each word it ever met. Here a feature has at most *buckets* names, so a
request with a hundred thousand new words makes no model larger. Actions are not hashed into
buckets: the loop file limits them.
"""

import zlib
from collections.abc import Iterable

from tidemill.schemas.loop.definition import FieldType
from tidemill.schemas.models.feature_signature import ACTION, FeatureRow, SignatureField
from tidemill.schemas.models.river_state import RowMapping


def word_bucket(word: str, buckets: int) -> int:
    """Return the bucket of *word*: the remainder of its CRC-32.

    >>> word_bucket("UA", 1_024)
    744
    """
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % buckets


class HashedRows:
    """Turns a decision's features into numbers, and its words into buckets.

    Args:
        fields: the features.
        buckets: how many a feature has.
    """

    def __init__(self, fields: Iterable[SignatureField], buckets: int) -> None:
        fields = tuple(fields)
        kinds = (FieldType.CATEGORY, FieldType.CATEGORIES)
        self._numbers = RowMapping(field for field in fields if field.type not in kinds)
        self._words = [
            (field.name, 2**32 if field.name == ACTION else buckets)
            for field in fields
            if field.type is FieldType.CATEGORY
        ]
        self._lists = [
            (field.name, buckets) for field in fields if field.type is FieldType.CATEGORIES
        ]

    def numbers(self, row: FeatureRow) -> dict[str, float]:
        """Return the features that are numbers; one that is missing has no entry."""
        return self._numbers(row)[0]

    def buckets(self, row: FeatureRow) -> dict[str, int]:
        """Return the bucket of each category; one that is missing has no entry."""
        return {
            name: word_bucket(str(row[name]), buckets)
            for name, buckets in self._words
            if row.get(name) is not None
        }

    def flags(self, row: FeatureRow) -> list[str]:
        """Return a name for each bucket that a word of the row is in, also of lists of words."""
        flags = [f"{name}={bucket}" for name, bucket in self.buckets(row).items()]
        for name, buckets in self._lists:
            words = row.get(name)
            if isinstance(words, list | tuple):
                found = dict.fromkeys(word_bucket(word, buckets) for word in words)
                flags += [f"{name}={bucket}" for bucket in found]
        return flags
