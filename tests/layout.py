"""The figures of the layout: run ``python -m tests.layout`` to print them.

Counted are the packages of the product, neither tests nor benchmarks.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    *("schemas", "features", "streams", "trainers", "serving", "experiments", "monitor"),
    *("deploy", "cli", "src/tidemill"),
)
FOLDER_MODULES = 13  # "about a dozen"
MODULE_LINES = 300
FUNCTION_LINES = 30
REASON = "Longer than 300 lines because"

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of the product.

    Attributes:
        path: relative to the root of the project.
        tree: its syntax.
        lines: how many it has.
    """

    path: Path
    tree: ast.Module
    lines: int

    @property
    def doc(self) -> str:
        """Its docstring, as one line."""
        return " ".join((ast.get_docstring(self.tree) or "").split())

    @property
    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    @property
    def public(self) -> Iterator[Definition]:
        """The functions and classes of the module, and the methods of those, that are public."""
        for node in self.tree.body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from (
                        each
                        for each in node.body
                        if isinstance(each, Definition) and not each.name.startswith("_")
                    )


def modules() -> list[Module]:
    """Return every module of the product."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents if parent != ROOT):
                continue
            text = path.read_text()
            lines = text.count("\n")
            relative = path.relative_to(ROOT)
            found.append(Module(path=relative, tree=ast.parse(text), lines=lines))
    return found


def folder_sizes(product: list[Module]) -> Counter[str]:
    """Return how many modules each folder has, its ``__init__`` left out."""
    return Counter(str(each.path.parent) for each in product if each.path.stem != "__init__")


def too_long(product: list[Module]) -> list[str]:
    """Return the modules of more than 300 lines whose docstring gives no reason."""
    return [
        f"{each.path}: {each.lines} lines"
        for each in product
        if each.lines > MODULE_LINES and REASON not in each.doc
    ]


def long_functions(product: list[Module]) -> float:
    """Return the share of functions of more than 30 lines."""
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for each in product
        for node in each.functions
    ]
    return sum(length > FUNCTION_LINES for length in lengths) / len(lengths)


def documented(product: list[Module]) -> float:
    """Return the share of public functions, classes and methods with a docstring."""
    public = [node for each in product for node in each.public]
    return sum(ast.get_docstring(node) is not None for node in public) / len(public)


def names(product: list[Module]) -> Counter[str]:
    """Return how often each class or type alias is defined, leading underscores left out."""
    return Counter(
        name.lstrip("_") for each in product for name in _defined(each.tree) if name.lstrip("_")
    )


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if re.fullmatch(r"_?[A-Z][a-z]\w*", name):
                    yield name


def main() -> None:
    """Print the figures."""
    product = modules()
    folders = folder_sizes(product)
    print(
        f"{len(product)} modules in {len(folders)} folders, {sum(m.lines for m in product)} lines"
    )
    print("largest folders:", ", ".join(f"{name} {n}" for name, n in folders.most_common(5)))
    longest = sorted(product, key=lambda each: -each.lines)[:5]
    print("longest modules:", ", ".join(f"{each.path} {each.lines}" for each in longest))
    print(f"functions over {FUNCTION_LINES} lines: {100 * long_functions(product):.1f} %")
    print(f"public names with a docstring: {100 * documented(product):.1f} %")


if __name__ == "__main__":
    main()
