"""The options of a function, read from its file without importing it: names, types, defaults, and what they mean.

What a person sets on the command line, or by "fit.option" and "data.option", is declared once, where it is used: in the
signature and the docstring of a public function. PyTorch would take a second to import, only to say what `--help` says.
"""

import ast
import functools
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
SET_BY_NAME = {"fit": "ppl_vae.fitting.svi:fit", "data": "ppl_vae.data.named:load"}  # as "fit.option=value"
BY_MODEL = ("strings",)  # options of the data that a condition asks for, not a person
GIVEN = ("validation", "objective", "optimizer", "seed", "out", "resume", "on_start", "progress")  # to fit, by train


@dataclass(frozen=True)
class Option:
    """A keyword option of a function.

    Its type as it is written, its default (None also where that is no plain value), and what the docstring says of it.
    """

    name: str
    type: str
    default: Any
    text: str

    @property
    def kinds(self) -> set[str]:
        """The members of its type, but None."""
        return {kind.strip() for kind in re.split(r"\|(?![^\[]*\])", self.type)} - {"None"}

    @property
    def help(self) -> str:
        """What it is, up to the first semicolon or the end of the first sentence.

        >>> Option("size", "int | None", None, "how many, see `sample`; None takes what fills a picture.").help
        'How many.'
        """
        first = re.split(r"(?<=[\w)\]}`'\"])\.(?=\s|$)|;\s", self.text, maxsplit=1)[0]
        plain = re.sub(r"(,|:)? see `[^`]*`|\(see `[^`]*`\)|`", "", first).replace(" ,", ",")
        return f"{plain[:1].upper()}{plain[1:]}." if plain else ""

    @property
    def usual(self) -> str:
        """The default in words, what None means among them; nothing where it goes without saying.

        >>> Option("size", "int | None", None, "how many; None takes what fills a picture.").usual
        'what fills a picture'
        """
        if self.default is None:
            meaning = re.search(r"\b(?:None \w+|by default) (.*?)(?=[.;]\s|\.?$)", self.text)
            return meaning[1].replace("`", "") if meaning else ""
        return "" if self.default is False else str(self.default)


def options_of(part: str) -> list[Option]:
    """Return what there is to say of fit, or of data."""
    return [option for option in options_of_function(SET_BY_NAME[part]).values() if option.name not in GIVEN]


def settable(part: str) -> list[Option]:
    """Return what a person can set of it: "fit.option", "data.option".

    >>> [option.name for option in settable("data")]
    ['binarize', 'dequantize', 'num_labels', 'missing']
    """
    return [option for option in options_of(part) if option.name not in BY_MODEL]


@functools.cache
def options_of_function(name: str) -> dict[str, Option]:
    """Return the keyword options of a function given as "module:function", in the order of its signature.

    >>> options_of_function("ppl_vae.data.named:load")["num_labels"].type
    'int | None'
    """
    module, _, function = name.partition(":")
    body = ast.parse(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text()).body
    found = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == function)
    texts = _texts(ast.get_docstring(found) or "")
    options = {}
    for arg, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True):
        if default is not None:
            written = ast.unparse(arg.annotation or ast.Constant(None))
            plain = default.value if isinstance(default, ast.Constant) else None
            options[arg.arg] = Option(arg.arg, written, plain, texts.get(arg.arg, ""))
    return options


def _texts(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each of its "Args:"."""
    after = docstring.partition("\nArgs:\n")[2]
    lines = inspect.cleandoc(re.split(r"\n(?=\S)", after, maxsplit=1)[0]).splitlines()
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if head := re.match(r"(\w+(?:, \w+)*): (.*)", line):
            names = head[1].split(", ")
            texts |= dict.fromkeys(names, head[2])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts
