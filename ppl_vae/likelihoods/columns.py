"""A likelihood for each column of a table."""

import inspect
import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ppl_vae.distributions import columns as distributions
from ppl_vae.distributions.columns import EachColumn
from ppl_vae.errors import InputError, did_you_mean, reason, shown, snake_case
from ppl_vae.likelihoods import bounded, codes, counts, pixels, real
from ppl_vae.likelihoods.codes import OfCodes
from ppl_vae.likelihoods.real import LocationScale
from ppl_vae.networks import Shape
from ppl_vae.parts import Likelihood, Preprocessing
from ppl_vae.preprocessing import Log1p, OfColumns, Standardize

KINDS: dict[str, type[Likelihood]] = {  # the types of columns, and what is usual for each
    "real": real.Gaussian,
    "positive": bounded.LogNormal,
    "count": counts.NegativeBinomial,
    "binary": pixels.Bernoulli,
    "categorical": codes.Nominal,
    "ordinal": codes.Ordinal,
}
ELEMENTWISE: tuple[type[Likelihood], ...] = (  # of which a column may have any
    bounded.Beta,
    bounded.Gamma,
    bounded.LogNormal,
    codes.Nominal,
    codes.Ordinal,
    counts.Binomial,
    counts.NegativeBinomial,
    counts.Poisson,
    counts.ZeroInflatedNegativeBinomial,
    counts.ZeroInflatedPoisson,
    pixels.Bernoulli,
    pixels.DiscretizedLogistic,
    real.ContinuousBernoulli,
    real.Gaussian,
    real.Laplace,
    real.StudentT,
)
LIKELIHOODS = {snake_case(cls.__name__): cls for cls in ELEMENTWISE} | KINDS


class Column(NamedTuple):
    """What is said of a column: a class of likelihoods, and options of it."""

    cls: type[Likelihood]
    options: dict[str, Any]

    @property
    def kind(self) -> tuple[Any, ...]:
        """What columns have in common of which one distribution is made: those of codes may have unlike numbers."""
        own = {} if issubclass(self.cls, OfCodes) else self.options
        return self.cls, json.dumps(own, sort_keys=True)

    def make(self) -> Likelihood:
        """Return a likelihood; a scale is learned for each column, unless another one is asked for."""
        first, *_ = (*inspect.signature(self.cls).parameters, None)
        usual = {first: "per_dimension"} if first and issubclass(self.cls, LocationScale) else {}
        return self.cls(**(usual | self.options))


class Kind(nn.Module):
    """One likelihood of all columns of a kind; where these have unlike numbers of categories, of the most of them.

    Attributes:
        size: of how many numbers of h its parameters are made.
        index: which of them each parameter is, where columns of fewer categories have fewer parameters.
    """

    index: Tensor | None

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        each = [column.make() for column in columns]
        self.likelihood: Any = max(each, key=lambda one: getattr(one, "num_levels", 0)).bind((len(each),))
        own = torch.tensor([one.num_params for one in each])
        self.size = int(own.sum())
        index = None
        if isinstance(self.likelihood, OfCodes) and bool((own < own.max()).any()):
            self.likelihood.levels = torch.tensor([int(one.num_levels) for one in each if isinstance(one, OfCodes)])
            place = torch.arange(int(own.max())).unsqueeze(-1)
            index = (own.cumsum(0) - own + torch.where(place < own, place, 0)).flatten()
        self.register_buffer("index", index, persistent=False)

    def forward(self, h: Tensor) -> Any:
        """Return the elementwise distribution of these columns, [..., D_g], for h [..., size]."""
        h = h if self.index is None else h[..., self.index]
        params = h.chunk(self.likelihood.num_params, dim=-1)
        return self.likelihood.distribution(*params)

    def preprocessing(self) -> Preprocessing:
        """Return what suits these columns: on a unit scale, each by itself."""
        usual = self.likelihood.preprocessing() or Standardize()
        return (Log1p(per_feature=True) if isinstance(usual, Log1p) else usual).bind(self.likelihood.event_shape)


class Columns(Likelihood):
    """Rows of a table: a likelihood for each column, P(x | h) = prod_j p_j(x_j | h_j); NaN is missing.

    A column is "real" (Gaussian), "positive" (log-normal), "count" (negative binomial), "binary", "categorical:C" or
    "ordinal:C" with codes 0 ... C - 1, or has a likelihood of the shelf by its name: "student_t", "gamma", "beta",
    "zero_inflated_poisson", "binomial:16". What follows a colon is the first option, or options by name:
    "student_t:df=3". A scale is learned for each column. Those of one kind are computed together.

    Shapes: x [N, D]; h [N, H], with H the sum of the parameters of all columns.

    Args:
        columns: what each column is; none: all are real.
        names: what each column is called, in messages; by default its number, from 0 on.

    Raises:
        InputError: an unknown kind or option; names that are not as many; data of another shape.

    Source: Nazabal et al., arXiv 1807.03653.

    >>> likelihood = Columns(["real", "positive", "count", "binary", "categorical:7", "ordinal:10"]).bind((6,))
    >>> p = likelihood(torch.zeros(5, *likelihood.h_shape))
    >>> p.log_prob(torch.tensor([0.3, 2.0, torch.nan, 1.0, 6.0, 0.0])).shape, likelihood.h_shape
    (torch.Size([5]), torch.Size([21]))
    """

    columns: Tensor
    order: Tensor

    def __init__(self, columns: Sequence[str] = (), names: Sequence[str] = ()) -> None:
        super().__init__()
        for what, given in (("columns", columns), ("names", names)):
            if not isinstance(given, str | Sequence):
                raise InputError(f"Expected a list of {what}, such as ['real', 'count']; got {shown(given)}. Give one.")
        self.names = [str(name) for name in names]
        said = [columns] if isinstance(columns, str) else list(columns)
        if said or self.names:
            self._say(said)

    def _say(self, said: Sequence[str]) -> None:
        """Make the likelihoods of these columns."""
        self.names = self.names or [str(index) for index in range(len(said))]
        if len(self.names) != len(said):
            raise InputError(
                f"Expected a name for each of {len(said)} columns; got {len(self.names)}. Name all, or none."
            )
        self.types = said
        read = [_read(each, name) for each, name in zip(said, self.names, strict=True)]
        together: dict[tuple[Any, ...], list[int]] = {}
        for index, column in enumerate(read):
            together.setdefault(column.kind, []).append(index)
        self.members = list(together.values())
        self.kinds = nn.ModuleList(Kind([read[index] for index in members]) for members in self.members)
        ordered = torch.tensor([index for members in self.members for index in members], dtype=torch.long)
        self.columns, self.order = (nn.Buffer(one, persistent=False) for one in (ordered, ordered.argsort()))
        self._each = EachColumn([column.make().support for column in read], self.names)

    def bind(self, event_shape: Shape) -> Self:
        """Say what shape one datum has: [D], a number for each column; all are real where nobody said what they are."""
        if not self.names and len(event_shape) == 1:
            self._say(["real"] * event_shape[0])
        if tuple(event_shape) != (len(self.names),):
            raise InputError(
                f"Expected data [N, {len(self.names)}], a number for each column of Columns; got data of shape "
                f"{tuple(event_shape)}. Say what each column is, for instance columns=['real', 'categorical:3']."
            )
        return super().bind(event_shape)

    def called(self, parameter: str, index: int) -> str:
        """Return what a number of a parameter is called: the parameter of its kind, and which column it is of."""
        _, kind, _, *own = parameter.split(".")
        members, size = self.members[int(kind)], self.get_parameter(parameter).numel()
        of = members if size % len(members) else [members[index % len(members)]]
        return f"{'.'.join(own)} of column {' and '.join(shown(self.names[column]) for column in of)}"

    def _each_kind(self) -> list[tuple[Any, list[int]]]:
        """Return each kind with its columns."""
        return list(zip(self.kinds, self.members, strict=True))

    @property
    def h_shape(self) -> torch.Size:
        """The shape of h for one datum: all parameters of all columns."""
        return torch.Size([sum(kind.size for kind, _ in self._each_kind())])

    @property
    def support(self) -> Any:
        """The support of each column."""
        return self._each

    @classmethod
    def options_for(cls, x: Tensor) -> dict[str, Any] | None:
        """Return None: which columns there are, numbers alone do not say."""
        return None

    def preprocessing(self) -> Preprocessing | None:
        return OfColumns([(kind.preprocessing(), members) for kind, members in self._each_kind()])

    def _start(self, x: Tensor) -> None:
        for kind, members in self._each_kind():
            kind.likelihood.start_from(x[:, members])

    def distribution(self, h: Tensor) -> TorchDistribution:
        parts = h.split([kind.size for kind, _ in self._each_kind()], -1)
        made = [kind(part) for (kind, _), part in zip(self._each_kind(), parts, strict=True)]
        return distributions.Columns(made, self.columns, self.order, self._each)


def kinds_for(x: Tensor) -> list[str]:
    """Return which kinds a column of these numbers can be.

    >>> kinds_for(torch.tensor([0.0, 1.0, 2.0])), kinds_for(torch.tensor([-1.5]))
    (['count', 'categorical:3', 'ordinal:3', 'real'], ['real'])
    """
    taking = {kind: cls.options_for(x) for kind, cls in KINDS.items()}
    found = [
        ":".join([kind, *map(str, options.values())])
        for kind, options in taking.items()
        if options is not None and KINDS[kind]().support.is_discrete
    ]
    return found + [kind for kind, options in taking.items() if options == {} and kind not in found]


def _read(said: Any, name: str) -> Column:
    """Return what is said of a column in a word, "kind", "kind:option" or "kind:name=option,name=option"."""
    kind, _, rest = said.partition(":") if isinstance(said, str) else ("", "", "")
    if kind not in LIKELIHOODS:
        raise InputError(f"Unknown kind {shown(said)} of column {name}: {did_you_mean(kind, LIKELIHOODS)}.")
    cls = LIKELIHOODS[kind]
    known = list(inspect.signature(cls).parameters)
    options = {}
    for place, part in enumerate(rest.split(",") if rest else ()):
        option, equals, value = part.partition("=")
        option, value = (option.strip(), value) if equals else (known[place] if place < len(known) else "", part)
        if option not in known:
            which = did_you_mean(option, known) if known else "it has no options"
            raise InputError(f"Unknown option {shown(part)} of column {name}, {shown(said)}: {which}.")
        options[option] = _value(value.strip())
    if kind in ("categorical", "ordinal") and "num_levels" not in options:
        raise InputError(f"Expected how many categories column {name} has; got {shown(said)}. Write '{kind}:5' for 5.")
    column = Column(cls, options)
    try:
        column.make()
    except InputError as problem:
        raise InputError(f"Column {name}, {shown(said)}: {reason(problem)}") from None
    return column


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
