"""What is compiled by mypyc stays clear of what mypyc does not do as Python does, but silently otherwise."""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_HOOK = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]
COMPILED = sorted(path for pattern in _HOOK["mypyc"]["include"] for path in _ROOT.glob(pattern))


@pytest.mark.parametrize("module", COMPILED, ids=lambda path: "/".join(path.parts[-2:]))
def test_nothing_that_is_compiled_otherwise(module: Path) -> None:
    """No dataclass has slots (orjson crashes on it), and no function has one name for exceptions of two kinds."""
    tree = ast.parse(module.read_text("utf-8"))
    assert list(_dataclasses_with_slots(tree)) == []
    assert list(_names_of_two_kinds(tree)) == []


def test_the_list_names_what_is_there() -> None:
    """Each pattern of what is compiled matches something."""
    assert [pattern for pattern in _HOOK["mypyc"]["include"] if not list(_ROOT.glob(pattern))] == []


def _dataclasses_with_slots(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("slots=True" in ast.unparse(each) for each in node.decorator_list):
            yield node.name


def _names_of_two_kinds(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kinds = defaultdict(set)
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                kinds[node.name].add(ast.unparse(node.type))
        yield from ((function.name, name) for name, found in kinds.items() if len(found) > 1)
