"""What there is to choose from: models, guides and parts, with their docstring's first sentence and their options."""

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, get_args

import pandas as pd
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import InputError, did_you_mean, is_one_of, shown, snake_case
from ppl_vae.runs.build import ROLES, find, is_file, names
from ppl_vae.runs.kinds import KINDS, PARTS, parameters_of, part_names
from ppl_vae.runs.signature import SENTENCE_END

COLUMNS = ["kind", "name", "what", "options", "module"]
# Pyro's own objectives, whose docstrings do not tell them apart.
PYROS = {
    "trace_elbo": "The ELBO, E_Q[log P(x, z) - log Q(z | x)], by draws of z; of discrete z by score functions.",
    "trace_graph_elbo": "The same with less variance for discrete z: a draw answers only for what depends on it.",
    "trace_mean_field_elbo": "The ELBO with KL(Q(z | x) || P(z)) in closed form where there is one.",
    "trace_enum_elbo": "The ELBO with discrete sites that are marked to be enumerated summed out exactly.",
}
# Their options for what this library does itself or does not do.
UNSAID = (
    "max_iarange_nesting", "max_plate_nesting", "strict_enumeration_warning", "ignore_jit_warnings", "jit_options",
    "retain_graph", "tail_adaptive_beta",
)  # fmt: skip


class Parts(pd.DataFrame):
    """The table of `list_parts`, shown as the command line shows it; a part of it is a plain table."""

    def __repr__(self) -> str:
        return as_text(self) if list(self.columns) == COLUMNS else str(super().__repr__())

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return pd.DataFrame(self).to_html(index=False, border=0)


def list_parts(kind: str | None = None, *, model: str | None = None, guide: str | None = None) -> pd.DataFrame:
    """List what a program can be made of: models, guides, priors, likelihoods, networks, objectives, ...

    Args:
        kind: list these only: "model", "guide", or a kind of part, such as "prior".
        model, guide: a person's own files, whose programs and parts are listed, too.

    Returns:
        A table: kind, name, what it is in a line, options with their defaults, and the module it stands in. The
        networks of decoder, encoder and classifier are the same, and listed once.

    Raises:
        InputError: an unknown kind, or a file that cannot be used.

    >>> list_parts("prior").set_index("name").options["mixture"]
    'latent_dim=8, num_components=10'
    """
    kinds = [*ROLES, *KINDS]
    if kind is not None and not is_one_of(kind, kinds):
        raise InputError(f"Unknown kind of part {shown(kind)}: {did_you_mean(kind, kinds)}.")
    files = {role: name for role, name in (("guide", guide), ("model", model)) if name is not None and is_file(name)}
    own = {find(role, name)[1]: name for role, name in files.items()}
    rows = [row for role in ROLES if kind in (None, role) for row in _program_rows(role, files.get(role))]
    for shelf in dict.fromkeys(KINDS[name].shelf for name in KINDS if kind in (None, name)):
        rows += _part_rows([name for name in KINDS if KINDS[name].shelf == shelf], own)
    return Parts(pd.DataFrame(rows, columns=COLUMNS))


def as_text(table: pd.DataFrame, width: int | None = None) -> str:
    """Return the table of `list_parts` for a terminal of this width.

    >>> print(as_text(list_parts("prior").query("name == 'mixture'"), width=100))
    prior (--prior NAME, --set prior.option=value)
      mixture  A learned mixture of diagonal Gaussians, P(z) = sum_c pi_c N(z; mu_c, diag(s_c^2)).
               latent_dim=8, num_components=10
    """
    width = width or min(shutil.get_terminal_size().columns, 120)
    indent = max(map(len, table.name), default=0) + 4
    lines = []
    for kind, group in table.groupby("kind", sort=False):
        first = str(kind).split(", ", maxsplit=1)[0]
        named = "ppl-vae train MODEL" if first == "model" else f"--{first} NAME"
        lines += ["", f"{kind} ({named}, --set {first}.option=value)"]
        for row in group.itertuples():
            said = [line for text in (row.what, row.options) for line in str(text).splitlines()]
            wrapped = [part for line in said for part in textwrap.wrap(line, max(20, width - indent))] or [""]
            lines.append(f"  {row.name}".ljust(indent) + wrapped[0])
            lines += [" " * indent + part for part in wrapped[1:]]
    return "\n".join(lines[1:])


def _program_rows(role: str, own: str | None) -> Iterator[tuple[str, ...]]:
    for name in [*names(role), *([own] if own else [])]:
        cls, module = find(role, name)
        what = "\n".join(filter(None, (_first_sentence(module), _first_sentence(cls))))
        yield role, name, what, _options(cls, shapes=1), own if name == own else module.__name__


def _part_rows(kinds: list[str], own: Mapping[ModuleType, str]) -> Iterator[tuple[str, ...]]:
    for name, cls in part_names(kinds[0], own).items():
        file = {module.__name__: file for module, file in own.items()}.get(cls.__module__, cls.__module__)
        what = PYROS.get(name, "") if cls.__module__.startswith("pyro.") else _first_sentence(cls)
        yield ", ".join(kinds), name, what, _options(cls, KINDS[kinds[0]].shapes), file


def _first_sentence(thing: Any) -> str:
    """Return the first sentence of a docstring of one's own, as plain text."""
    text = inspect.cleandoc(vars(thing).get("__doc__") or "").split("\n\n")[0].replace("\n", " ")
    sentence = re.split(SENTENCE_END, text, maxsplit=1)[0]
    return f"{sentence}." if sentence else ""


def _options(cls: Any, shapes: int) -> str:
    """Return the options of a class as they are set on the command line, parts that it takes among them."""
    options = [option for name, option in parameters_of(cls, shapes).items() if name not in UNSAID]
    return ", ".join(_shown(option) for option in options if _can_be_typed(option))


def _can_be_typed(option: inspect.Parameter) -> bool:
    kinds = get_args(option.annotation) or [option.annotation]
    return not any(inspect.isclass(kind) and issubclass(kind, (Tensor, ELBO)) for kind in kinds)


def _shown(option: inspect.Parameter) -> str:
    value: Any = option.default
    if option.name in PARTS:
        usual = getattr(value, "func", value)
        return f"--{option.name}" + (f" {snake_case(usual.__name__)}" if inspect.isclass(usual) else "")
    if value is inspect.Parameter.empty:
        return option.name
    return f"{option.name}={','.join(map(str, value)) if isinstance(value, tuple | list) else value}"
