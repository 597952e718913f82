"""Compiled source, once for all loops of one shape: what one loop runs stays warm for the others.

A processor that decides a thousand loops in turn would otherwise fetch a thousand copies of the
same instructions from memory.
"""

from functools import lru_cache
from types import CodeType


@lru_cache(maxsize=4_096)
def compiled(source: str, name: str) -> CodeType:
    """Return the code of *source*, to be run by `exec` in a scope; *name* stands in tracebacks."""
    return compile(source, name, "exec")
