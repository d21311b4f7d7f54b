"""The house: who may import whom, by import-linter, and what that does not see.

Models and guides are installed from beside the package, and the kinds of parts name their modules in strings.
"""

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ppl_vae"
NAMED = re.compile(r"ppl_vae(\.[a-z_]+)+(:\w+)?")  # a module, or a module and a name in it
FOR_PROGRAMS = {  # what a model or a guide file may import
    "architectures", "base", "conditional", "conditions", "distributions", "errors", "likelihoods", "missing",
    "networks", "parts", "posteriors", "preprocessing", "priors",
}  # fmt: skip


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "ppl_vae" else ("ppl_vae", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in PACKAGE.rglob("*.py")}
PROGRAMS = {module_name(path): path for kind in ("models", "guides") for path in (ROOT / kind).glob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in (FILES | PROGRAMS).items()}


def own_imports(tree):
    """Yield (module, node) for each module of ours that is imported anywhere: in functions and for typing, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name.split(".")[0] == "ppl_vae")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppl_vae":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in TREES else node.module), node


def strings_that_name_modules(tree):
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in docstrings else None
        if isinstance(text, str) and NAMED.fullmatch(text):
            yield text


def test_the_layers(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_there_is_no_circle_of_any_kind():
    """Modules named in strings are imported when they are asked for: an arrow like any other."""
    graph = {name: {m for m, _ in own_imports(TREES[name]) if m != name} for name in FILES}
    for name in FILES:
        graph[name] |= {s.partition(":")[0] for s in strings_that_name_modules(TREES[name]) if "moved" not in name}
    graph = {name: {m for m in found if m in FILES} for name, found in graph.items()}
    graph["ppl_vae"] = set()  # its stub is read when a public name is first used
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("ppl_vae.errors") < order.index("ppl_vae.cli")


def test_nothing_is_imported_inside_a_function_or_for_typing_only():
    """Both hide an arrow; the command line alone may, to answer at once."""
    found = []
    for name, tree in TREES.items():
        hidden = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        hidden += [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
        found += [f"{name}:{i.lineno} {module}" for node in hidden for module, i in own_imports(node)]
    assert [line for line in found if not line.startswith(("ppl_vae.cli", "ppl_vae.__main__"))] == []


def test_the_library_knows_no_model_and_no_guide():
    for name in FILES:
        known = [m for m, _ in own_imports(TREES[name]) if m.startswith(("ppl_vae.models", "ppl_vae.guides"))]
        assert known == [], name


@pytest.mark.parametrize("name", [name for name, path in PROGRAMS.items() if path.stem != "__init__"])
def test_programs_import_parts_and_base_classes_only(name):
    assert {module.split(".")[1] for module, _ in own_imports(TREES[name])} <= FOR_PROGRAMS


def test_modules_are_named_in_strings_by_runs_only_and_all_are_there():
    named = {name: list(strings_that_name_modules(TREES[name])) for name in FILES}
    assert {n for n, strings in named.items() if strings} <= {
        "ppl_vae.cli",
        "ppl_vae.runs.kinds",
        "ppl_vae.runs.signature",
        "ppl_vae.utils.moved",
    }
    for strings in named.values():
        for string in strings:
            pkgutil.resolve_name(string)


def test_the_doc_of_a_room_names_every_module_in_it():
    rooms = [p for p in PACKAGE.iterdir() if (p / "__init__.py").exists()]
    for room in rooms:
        text = (room / "__init__.py").read_text()
        body = ast.parse(text).body
        if all(isinstance(node, ast.Expr) for node in body):  # a room of machinery: a docstring and no imports
            missing = [p.stem for p in room.glob("*.py") if p.stem != "__init__" and f"`{p.stem}`" not in text]
            assert missing == [], f"{room.name}/__init__.py"


def test_what_is_public_in_a_part_is_documented_by_it_or_by_what_it_overrides():
    """Ruff does not ask it of these modules (D102), as a class says by its formula what its `forward` returns."""
    rooms = ("architectures", "conditions", "likelihoods", "networks", "posteriors", "priors")
    parts = [name for name in FILES if name.split(".")[1:2] and name.split(".")[1] in rooms]
    for module in map(importlib.import_module, parts):
        for cls in filter(inspect.isclass, vars(module).values()):
            for name, member in vars(cls).items() if cls.__module__ == module.__name__ else ():
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    assert inspect.getdoc(getattr(cls, name)), f"{cls.__name__}.{name}"


def test_library_code_does_not_mock():
    assert [name for name in FILES if "unittest" in FILES[name].read_text()] == []


def test_a_message_speaks_of_arguments_and_not_of_options_of_the_command_line():
    """What the command line says in its own words stands in `options`."""
    of_a_shell = re.compile(r"(?<!\w)--[a-z]|ppl-vae [a-z]")
    for name, tree in TREES.items():
        raised = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
        said = [arg for node in raised if node.func.id.endswith("Error") or node.func.id == "warn" for arg in node.args]
        for part in (one for each in said for one in ast.walk(each) if isinstance(one, ast.Constant)):
            assert not (isinstance(part.value, str) and of_a_shell.search(part.value)), (name, part.value)
