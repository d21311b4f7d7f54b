"""The two base classes of model files and guide files.

A model is a Pyro program for P(x, z), a guide one for Q(z | x). Both are called as `program(x)` to observe x of shape
[N, *event_shape], or, for a model, as `program(size=n)` to generate n data. Their local sites stand inside one plate
named "data" at dim -1, and they work under one more plate to its left, since that is how K samples are drawn at once.
"""

import functools
import inspect
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, NoReturn, Self, cast

import pyro
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from ppl_vae.architectures import Architecture
from ppl_vae.conditions import Condition
from ppl_vae.distributions.unwrap import is_real
from ppl_vae.errors import InputError, check_object, did_you_mean, positive_int, reason, shown, whole_number
from ppl_vae.missing import filled, nothing_is_missing
from ppl_vae.networks import is_maker, shape_of
from ppl_vae.parts import Likelihood, Posterior, Preprocessing, Prior
from ppl_vae.preprocessing import Identity
from ppl_vae.traces.pair import Pair, check_observes
from ppl_vae.traces.plates import latents, samples
from ppl_vae.utils.one_at_a_time import one_at_a_time

# The parts that a program takes as objects, by the name of the argument.
PARTS: dict[str, type[Any]] = {
    "prior": Prior,
    "likelihood": Likelihood,
    "condition": Condition,
    "networks": Architecture,
    "preprocessing": Preprocessing,
}


# What a person's own module has to have, in the place of such a part, where it is of no class of ours.
NEEDED: dict[str, tuple[str, ...]] = {
    "prior": ("event_shape",),
    "likelihood": ("bind",),
    "condition": ("shape", "split"),
    "networks": ("decoder",),
    "preprocessing": ("bind", "transform"),
}


class Checked:
    """What is made with unknown options, or with parts of another kind, says so before its constructor meets them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the arguments."""
        call = inspect.signature(cls)
        unknown = [name for name in kwargs if name not in call.parameters]
        if unknown and not any(p.kind == p.VAR_KEYWORD for p in call.parameters.values()):
            raise InputError(f"Unknown option {unknown[0]!r} of {cls.__name__}: {_where_it_belongs(cls, unknown[0])}.")
        with suppress(TypeError):  # too many arguments, or one twice: Python says so
            for name, value in call.bind_partial(*args, **kwargs).arguments.items():
                _check_part(cls, name, value, call.parameters[name].default)
        return super().__new__(cls)


class Program(Checked, PyroModule):
    """What models and guides share: the shape of one datum, and the plate over the data."""

    any_length = False  # whether it takes series of any number of steps, [N, T, ...], not only those of event_shape

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        if (number := whole_number(event_shape)) is not None:
            raise InputError(f"Expected event_shape to be a shape; got {shown(number)}. Write ({shown(number)},).")
        if of_data := getattr(event_shape, "shape", ()):
            raise InputError(
                f"Expected event_shape to be the shape of one datum; got data. Write {tuple(of_data[1:])}."
            )
        sizes = event_shape if isinstance(event_shape, tuple | list) else ()
        if not sizes or any((whole_number(n) or 0) < 1 for n in sizes):
            raise InputError(
                f"Expected event_shape to hold at least one size, each 1 or more; got {shown(event_shape)}. "
                f"Take it from the data: data.load('digits').event_shape."
            )
        self.event_shape = shape_of("event_shape", sizes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; run by hand, outside of Pyro's handlers, it leaves nothing in Pyro's store."""
        with one_at_a_time(), nullcontext() if am_i_wrapped() or Pair.is_running() else Pair(self).own_store():
            return super().__call__(*args, **kwargs)

    def takes(self, shape: torch.Size) -> bool:
        """Return whether it takes data of this shape: its event_shape, or series of another number of steps."""
        free = int(self.any_length)
        return shape[free:] == self.event_shape[free:] and 0 not in shape[:free]

    def generated(self, x: Tensor) -> Tensor:
        """Return what is generated of x [N, *event_shape], without a condition in it; of series the steps, [N T, D]."""
        if self.any_length:
            return x.flatten(0, 1)
        condition = getattr(self, "condition", None)
        return x if condition is None or not condition.y_from_x else condition.split(x, None)[0]

    def plate(self, x: Tensor | None = None, size: int | None = None) -> Any:
        """Return the plate over the data: as many as x, [N, *event_shape], holds, or `size` (default 1) without x."""
        if x is None:
            return pyro.plate("data", positive_int("size", 1 if size is None else size), dim=-1)
        if not self.takes(x.shape[1:]):
            raise InputError(
                f"Expected x of shape [N, {', '.join(map(str, self.event_shape))}] for {type(self).__name__}; "
                f"got {tuple(x.shape)}. Give the program the event_shape of the data, or reshape the data."
            )
        return pyro.plate("data", x.shape[0], dim=-1)


class Model(Program):
    """A generative program P(x, z) = P(x | z) P(z): subclasses implement `forward(x=None, *, size=None)`.

    Where a part is not given, the constructor takes that of the class named `default_prior`, `default_likelihood`, ...
    """

    role = "model"
    default_guide = "mean_field"  # the name of the guide that goes with it
    partly_labelled_guide: str | None = None  # of the one for data of which some have no label, if it is another
    y_from_x = False  # whether the condition y is a part of x, so that data give the model x alone

    def example(self) -> tuple[Tensor, ...]:
        """Return one datum, of zeros, as both programs are called with it."""
        return (torch.zeros(1, *self.event_shape),)

    def data_options(self) -> dict[str, Any]:
        """Return options of `ppl_vae.data.load` for the data that the model is made for."""
        return {}


class Guide(Program):
    """An amortized guide Q(z | x) for a model: subclasses implement `forward(x)`.

    `latents` names the model's latent sites with the event shape of each, read off the model's trace; those that
    Pyro can sum out are `enumerable`. A guide that can say Q of a site before anything is sampled has `posterior(x)`,
    too, which `VampPrior` reads. Networks that read x read `self.preprocessing(x)`, of shape
    `self.preprocessing.out_shape`, in a guide that hands a preprocessing on to this constructor.

    Args:
        model: the model whose latent sites it samples.
        preprocessing: what its networks read of x; None leaves x as it is, with zeros where it is missing.
    """

    role = "guide"
    classifies = False  # whether it has a site y, Q(y | x), where it is given x alone
    default_objective: str | None = None  # a class name in snake case; None is the plain ELBO
    reads_missing = False  # whether `forward` is given x as it is where values are missing (NaN), instead of zeros

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what says Q of x be given what there is of x, as the guide itself is."""
        super().__init_subclass__(**kwargs)
        for name in ("posterior", "posterior_given"):
            if name in vars(cls):
                setattr(cls, name, _of_what_there_is(vars(cls)[name]))

    preprocessing: Any  # a Preprocessing, where there is one

    def __init__(self, model: Model, preprocessing: Preprocessing | None = None) -> None:
        check_object("model", model)
        if not hasattr(model, "example"):
            raise InputError(
                f"Expected a Model for {type(self).__name__}; got {type(model).__name__}. Make a model, and pass it."
            )
        super().__init__(model.event_shape)
        self._check_takes(model)
        if preprocessing is not None:
            self.preprocessing = preprocessing.bind(shape_read(model)[int(self.any_length) :])
            self.reads_missing = True  # as its preprocessing does
        for part in model.modules():
            if hasattr(part, "meet"):
                cast(Any, part).meet(self)
        everything = samples(_example_trace(model))
        check_observes(type(model).__name__, everything)
        sites = latents(everything)
        self.latents = {name: site["fn"].event_shape for name, site in sites.items()}
        self._bounded = [f"{n!r} of {type(s['fn']).__name__}" for n, s in sites.items() if not is_real(s["fn"])]
        self.enumerable = {name for name, site in sites.items() if site["infer"].get("enumerate") == "parallel"}

    def refuse(self, model: Model, expected: str, got: str = "") -> NoReturn:
        """Raise an InputError: the guide is not for this model; what is expected, and what it has instead."""
        raise InputError(
            f"Expected {expected} for {type(self).__name__}; got {got or type(model).__name__}. Use another guide, for "
            f"instance {model.default_guide}."
        )

    def refer_to(self, **modules: nn.Module) -> None:
        """Keep the model, or parts of it, as attributes of these names; they do not become parts of the guide."""
        vars(self).update(modules)

    def _check_takes(self, model: Model) -> None:
        """Refuse a model that is called with more than the guide takes, as a conditional one with its y."""
        try:
            inspect.signature(self.forward).bind(*model.example())
        except TypeError:
            raise InputError(
                f"Expected a guide that is called as {type(model).__name__} is, with x and y; got "
                f"{type(self).__name__}{inspect.signature(self.forward)}. Use another, as {model.default_guide}."
            ) from None

    def real_latents(self) -> dict[str, torch.Size]:
        """Return `latents`; raise an InputError if one is discrete or bounded: no Gaussian or flow is its posterior."""
        if self._bounded:
            raise InputError(
                f"Expected latents over all real numbers for {type(self).__name__}; got {self._bounded[0]}. Use "
                f"another guide, as the one that goes with the model."
            )
        return self.latents

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the guide on what there is of x."""
        return super().__call__(self._there_is(x), *args, **kwargs)

    def _there_is(self, x: Any) -> Any:
        return x if self.reads_missing or nothing_is_missing() else filled(x)

    def posterior(self, x: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x) of each site s that depends on nothing but x, for x [..., *event_shape]."""
        raise InputError(
            f"Expected a guide with a posterior(x) of each site; got {type(self).__name__}. Use mean_field."
        )

    def posterior_given(self, x: Tensor, c: Tensor) -> dict[str, TorchDistribution]:
        """Return Q(z_s | x_i, c) of each site s, [..., I], for x [I, *event_shape] and c of y, [..., *c_shape]."""
        raise InputError(
            f"Expected a guide with a posterior_given(x, c) of each site; got {type(self).__name__}. Use conditional."
        )


def suited(model: Model, encoder: Any = None) -> Preprocessing:
    """Return the preprocessing that suits a model's likelihood: what networks read is on a unit scale.

    An encoder that is made already is a person's own, and reads x as it is.

    >>> from ppl_vae import likelihoods
    >>> from ppl_vae.models import VAE
    >>> [type(suited(VAE((3,), likelihood=one()))).__name__ for one in (likelihoods.Gaussian, likelihoods.Bernoulli)]
    ['Standardize', 'Identity']
    """
    if encoder is not None and not is_maker(encoder):
        return Identity()
    suits = getattr(getattr(model, "likelihood", None), "preprocessing", None)
    return (suits() if callable(suits) else None) or Identity()


def shape_read(model: Model) -> torch.Size:
    """Return the shape of what a guide's networks read of a datum: the whole, less a condition that is a part of it."""
    condition = getattr(model, "condition", None)
    return model.event_shape if condition is None else torch.Size(condition.x_shape)


def _of_what_there_is(method: Any) -> Any:
    """Return a guide's method with x filled where values are missing, but for a guide that reads them."""

    @functools.wraps(method)
    def of_what_there_is(self: Guide, x: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, self._there_is(x), *args, **kwargs)

    return of_what_there_is


def _example_trace(model: Model) -> poutine.Trace:
    """Run a model on its example, on the side."""
    pair = Pair(model, fresh=True)
    try:
        with pair.running(), pair.evaluating(), torch.no_grad(), torch.random.fork_rng():
            return poutine.trace(model).get_trace(*model.example())
    except InputError as problem:
        raise InputError(reason(problem)) from None  # Pyro adds a table of all shapes below


def _check_part(cls: type[Checked], name: str, value: Any, usual: Any) -> None:
    """Refuse a class where an object is meant, an object where a class is, and parts of another kind."""
    if name == "model":
        check_object("model", value)
    if name == "model" and not hasattr(value, "example"):
        raise InputError(f"Expected a Model for {cls.__name__}; got {type(value).__name__}. Make a model, and pass it.")
    if name == "posterior" and isinstance(value, Posterior):
        family = type(value).__name__
        raise InputError(
            f"Expected posterior to be a class, which is given the size of each latent; got an object. Write {family}, "
            f"or a functools.partial of it."
        )
    if name == "posterior" and inspect.isclass(value) and not issubclass(value, Posterior):
        raise InputError(
            f"Expected posterior to be a class of Posterior, which is given the size of each latent; got "
            f"{value.__name__}. Choose one of ppl_vae.posteriors, or derive your own."
        )
    if name not in PARTS or inspect.isclass(usual):
        return
    if inspect.isclass(value) and issubclass(value, PARTS[name]):
        check_object(name, value)
    other = [kind for kind, base in PARTS.items() if kind != name and isinstance(value, base)]
    if other and not isinstance(value, PARTS[name]):
        raise InputError(
            f"Expected the {name} of {cls.__name__}; got {type(value).__name__}, which is a {other[0]}. Pass parts by "
            f"name: {other[0]}={type(value).__name__}(...)."
        )
    alike = all(hasattr(value, each) for each in NEEDED[name]) and (name == "networks" or isinstance(value, nn.Module))
    if value is not None and not isinstance(value, PARTS[name]) and not alike:
        usual = getattr(cls, f"default_{name}", None)
        such = "" if usual is None else f", such as {usual.__name__}()"
        got = shown(value) if isinstance(value, str | float | int) else getattr(value, "__name__", type(value).__name__)
        raise InputError(
            f"Expected {name} to be an object of a class of {PARTS[name].__name__}{such}; got {got}. Pass one, "
            f"or derive your own from {PARTS[name].__module__}.{PARTS[name].__name__}."
        )


def _where_it_belongs(cls: type[Checked], option: str) -> str:
    """Say of which part an option is, or what the program's own are."""
    for kind in PARTS:
        usual = getattr(cls, f"default_{kind}", None)
        if usual is not None and option in inspect.signature(usual).parameters:
            return f"it is one of its {kind}; write {kind}={usual.__name__}({option}=...)"
    return did_you_mean(option, inspect.signature(cls).parameters)
