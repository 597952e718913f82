"""The Python reference: which names are on a page. Sphinx reads their docstrings."""

import enum
import inspect

from docs.generate.names import API, ERRORS, PUBLIC_FROM
from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def api(page: str) -> str:
    """Return the directives that document all names of *page*."""
    return _rst([_documented(each) for each in API[page]])


def error_tree() -> str:
    """Return the tree of errors, as their module draws it, and every class."""
    drawing = inspect.cleandoc(ERRORS.__doc__ or "").split("\n\n", 1)[1]
    found = [each for each in vars(ERRORS).values() if inspect.isclass(each)]
    own = [each for each in found if each.__module__ == ERRORS.__name__]
    names = [f".. autoexception:: {each.__module__}.{each.__name__}" for each in own]
    return f"```text\n{drawing}\n```\n\n{_rst(names)}"


def short_signature(thing: object) -> str | None:
    """Return the arguments of a loop value without its checks, which are on the loop-file page."""
    if not (isinstance(thing, type) and issubclass(thing, BaseModel)):
        return None
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in thing.model_fields.items()
    }
    return f"(*, {', '.join(_argument(name, default) for name, default in defaults.items())})"


def _argument(name: str, default: object) -> str:
    if default is PydanticUndefined:
        return name
    shown = isinstance(default, str | int | float | None) or default in ([], {})
    return f"{name}={default!r}" if shown else f"{name}=..."


def _documented(thing: object) -> str:
    name = getattr(thing, "__qualname__", "")
    exported = (each.__name__ for each in PUBLIC_FROM if getattr(each, name, None) is thing)
    path = f"{next(exported, getattr(thing, '__module__', ''))}.{name}"
    if inspect.isclass(thing) and issubclass(thing, enum.Enum):
        return f".. autoclass:: {path}\n   :undoc-members:"
    return f".. {'autoclass' if inspect.isclass(thing) else 'autofunction'}:: {path}"


def _rst(directives: list[str]) -> str:
    return "```{eval-rst}\n" + "\n\n".join(directives) + "\n```"
