"""Effect handlers, and conditions: observed sites that a model is given and does not have to explain.

    log P(x | y) = log P(x, y) - log P(y)

A program marks such a site, `pyro.sample("y", ..., obs=y, infer={"is_condition": True})`. Without a latent ancestor of
y, leaving it out of the weights turns log P(x, y) into log P(x | y).
"""

from collections.abc import Iterable
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import Tensor

from ppl_vae.distributions.unwrap import is_improper
from ppl_vae.errors import InputError
from ppl_vae.traces.plates import samples
from ppl_vae.traces.sites import Kind, Site, kind_in_model, of_kind


class Substitute(Messenger):
    """Give latent sites, and plates of a random subset, these values: `poutine.condition`, but they stay latent."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def is_condition(site: Any) -> bool:
    """Return whether a site is one that the program is given: marked, and observed."""
    return bool(site["is_observed"] and site["infer"] and site["infer"].get("is_condition"))


class GivenConditions(Messenger):
    """Leave the log-probability of conditions out: what is scored is log P(x | y)."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_condition(msg):
            msg["mask"] = False


class Regenerated(UnconditionMessenger):
    """Draw what is observed anew; conditions too, if they are scored (`joint`), else not."""

    def __init__(self, *, joint: bool = False) -> None:
        super().__init__()
        self.joint = joint

    def _pyro_sample(self, msg: Any) -> None:
        if self.joint or not is_condition(msg):
            super()._pyro_sample(msg)


def quantity(trace: poutine.Trace, given: tuple[str, ...], statistics: tuple[str, ...] = ()) -> str:
    """Return what is estimated, in words: log P(x), log P(x | y), log P(x, y), or, given some n of x, log P(x | n)."""
    names = [name for name in of_kind(samples(trace), Kind.OBSERVED) if name not in given]
    given = tuple(dict.fromkeys((*given, *(name for name in statistics if name not in names))))
    if len(names) < 2:
        names = names if given and names else ["x"]
    if not given and len(names) < 2:
        return "log P(x)"
    return f"log P({', '.join(reversed(names))}{' | ' if given else ''}{', '.join(given)})"


def condition_names(sites: dict[str, Site]) -> tuple[str, ...]:
    """Return the names of the conditions; raise an InputError if one comes after a latent, on which it may depend."""
    before: list[str] = []
    for name, site in sites.items():
        if before and is_condition(site):
            raise InputError(
                f"Expected the condition {name!r} before all latent sites; got it after {', '.join(before)}, on which "
                f"it may depend: the weights would not give log P(x | y). Sample it first, or pass joint=True."
            )
        if kind_in_model(site) is Kind.LATENT:
            before.append(name)
    return tuple(name for name, site in sites.items() if is_condition(site))


def check_proper(traces: Iterable[poutine.Trace]) -> None:
    """Raise an InputError if a condition has no density to score for log P(x, y), as only P(x | y) is modelled."""
    for trace in traces:
        for name, site in samples(trace).items():
            if is_condition(site) and is_improper(site["fn"]):
                raise InputError(
                    f"Expected a model with a P({name}) for joint=True; got one that is always given {name!r} and has "
                    f"no density of it. Leave joint out: the estimate is of log P(x | {name})."
                )
