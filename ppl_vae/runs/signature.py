"""The options of a function, read from its file, as PyTorch would take a second to import for `--help`.

What a person sets on the command line, or by "fit.option" and "data.option", is declared once, where it is used: in the
signature and the docstring of a public function.
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
GIVEN = ("validation", "objective", "optimizer", "seed", "out", "resume", "on_start", "progress")  # to fit, by train
NOT_SET = (*GIVEN, "strings")  # by a person: for strings a condition asks
SENTENCE_END = r"(?<=[\w)\]}`'\"])\.(?=\s|$)"


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
        first = re.split(rf"{SENTENCE_END}|;\s", self.text, maxsplit=1)[0]
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


def settable(part: str) -> list[str]:
    """Return which options of it a person can set: "fit.option", "data.option".

    >>> settable("data")
    ['kind', 'binarize', 'dequantize', 'num_labels', 'missing', 'schema', 'label', 'layer']
    """
    return [name for name in options_of(SET_BY_NAME[part]) if name not in NOT_SET]


@functools.cache
def options_of(function: str) -> dict[str, Option]:
    """Return the keyword options of a function given as "module:function", in the order of its signature.

    >>> options_of("ppl_vae.data.named:load")["num_labels"].type
    'int | None'
    """
    module, _, name = function.partition(":")
    body = ast.parse(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text()).body
    *_, found = (node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)  # after overloads
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
    arguments = inspect.cleandoc(re.split(r"\n(?=\S)", after, maxsplit=1)[0])
    found = re.findall(r"^(\w+(?:, \w+)*): (.*(?:\n .*)*)", arguments, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}
