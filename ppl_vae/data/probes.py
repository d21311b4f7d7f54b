"""What Pyro lets pass in a run of two programs, and what makes wrong numbers, or an error far from its cause.

Sites without a distribution of Pyro's; data whose dimensions are not those of the distribution that scores them; values
and parameters that a program changes in place; a model in which one datum depends on the others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.nn.parameter import is_lazy

from ppl_vae.distributions.unwrap import family_of
from ppl_vae.errors import InputError, ProgramError
from ppl_vae.traces.handlers import Substitute
from ppl_vae.traces.log_weights import log_weights
from ppl_vae.traces.pair import Pair, program_name
from ppl_vae.traces.plates import Args, Structure, check_scores_all, log_prob_by_datum, samples, structure_of
from ppl_vae.traces.sites import Kind, Site, at, is_computed, of_kind
from ppl_vae.utils.faults import LAYOUT, got, line_now, warn
from ppl_vae.utils.rng import seeded

ROUNDED = 0.1  # nats of a log-probability that rounding may take: from there on it is said
TRIES, LAST_DIGITS = 16, 8  # how often numbers are changed, by how many units in their last place, to see what it moves


class Drawn(Messenger):
    """Notes the person's own line of each site, and keeps a copy of its value as it was drawn or given."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[tuple[Site, Tensor]] = []

    def _pyro_sample(self, msg: Any) -> None:
        msg["line"] = line_now()

    def _pyro_post_sample(self, msg: Any) -> None:
        if isinstance(msg["value"], Tensor):
            self.values.append((msg, msg["value"].detach().clone()))


def check_distributions(program: Any, trace: poutine.Trace) -> None:
    """Refuse sites whose distribution is none of Pyro's."""
    for name, site in samples(trace).items():
        fn = site["fn"]
        if hasattr(fn, "log_prob") and hasattr(fn, "event_dim"):
            continue
        family = type(fn).__name__
        fix = (
            f"Write {family}(...) of pyro.distributions"
            if isinstance(fn, torch.distributions.Distribution)
            else f"Give pyro.sample({name!r}, ...) what its value is drawn from, such as pyro.distributions.Normal(...)"
        )
        raise InputError(
            f"Expected a distribution of Pyro's at each site; got {family} of {type(fn).__module__.partition('.')[0]} "
            f"in {program_name(program)} at {at(site)}. {fix}."
        )


def check_not_transformed(program: Any, trace: poutine.Trace) -> None:
    """Refuse data that TransformReparam takes to the base of their distribution, and scores there."""
    for name in of_kind(samples(trace), Kind.OBSERVED):
        whole = name.removesuffix("_base")
        if whole in trace and is_computed(dict(trace.nodes[whole])):
            raise InputError(
                f"Expected the density of the data themselves; got {whole!r} of {program_name(program)} under "
                f"TransformReparam, which scores {name!r} and leaves out the Jacobian of its transform: it is for "
                f"latents only. Leave {whole!r} out of poutine.reparam."
            )


def check_shapes(program: Any, trace: poutine.Trace, num_run: int) -> None:
    """Refuse data that a distribution scores only by repeating them along dimensions that they do not have."""
    for site in of_kind(samples(trace), Kind.OBSERVED).values():
        value, fn = site["value"], site["fn"]
        if not isinstance(value, Tensor) or num_run not in value.shape[:1]:
            continue  # no data
        event = value.shape[max(0, value.dim() - fn.event_dim) :]
        taken_as_event = value.dim() <= fn.event_dim and fn.batch_shape.numel() > 1
        repeated = any(n not in (size, 1) for n, size in zip(fn.event_shape, event, strict=False))
        more = len(fn.batch_shape) < value.dim() - fn.event_dim and num_run > 1 and bool(fn.batch_shape)
        if taken_as_event or repeated or more:
            raise InputError(
                f"Expected data of the shape of their distribution; got {tuple(value.shape)} in "
                f"{program_name(program)} at {at(site)}, where {type(family_of(fn)).__name__} has "
                f"{tuple(fn.shape())}: {_in_words(fn.batch_shape)} of {_in_words(fn.event_shape)} each. {LAYOUT}"
            )


def _in_words(shape: torch.Size) -> str:
    """Return a shape as a number of things, or their product."""
    return " x ".join(map(str, shape)) or "1"


@contextmanager
def left_as_they_are(pair: Pair, args: Args) -> Iterator[None]:
    """Refuse programs that, run within, change in place what they are given, what they draw, or their parameters."""
    given = [(arg, arg.detach().clone()) for arg in args]
    held = [
        (name, parameter, parameter.detach().clone())
        for module in pair.modules.values()
        for name, parameter in module.named_parameters()
        if not is_lazy(parameter)
    ]
    with Drawn() as drawn:
        yield
    names = " or ".join(map(program_name, pair.programs.values()))
    for name, parameter, before in held:
        if not _same(parameter, before):
            raise InputError(
                f"Expected programs that leave their parameters to the optimizer; got {name}, of shape "
                f"{tuple(parameter.shape)}, which {names} changes whenever it is run. Compute with a new tensor, or "
                f"make what a program changes a buffer."
            )
    if any(not _same(arg, before) for arg, before in given):
        raise InputError(
            f"Expected programs that leave their data as they are; got x changed in place by {names}: what is run next "
            f"finds other data. Write x = x / 255, and not x /= 255 (nor x.clamp_(), x[...] = ...)."
        )
    for site, before in drawn.values:
        if not _same(site["value"], before):
            name = site["name"]
            raise InputError(
                f"Expected programs that leave what they draw as it is; got the value of {at(site)} changed in "
                f"place by {names}: it would be scored at another one than was drawn. Write {name} = {name} + 1, and "
                f"not {name} += 1 (nor {name}.clamp_(), {name}[...] = ...)."
            )


def _same(value: Tensor, before: Tensor) -> bool:
    return value.shape == before.shape and torch.equal(value.nan_to_num(), before.nan_to_num())


def warn_of_one_batch_dimension(pair: Pair, args: Args, traces: Sequence[poutine.Trace]) -> None:
    """Say before a fit that its programs, or a part of them, do not run under one more plate, as K samples are drawn.

    Two data are tried, and, as a program may take no others, those that the traces are of.
    """
    problem: BaseException | None = None
    for count in dict.fromkeys((min(2, len(args[0])), len(args[0]))):
        try:
            structure = structure_of(traces, len(args[0]))
            if structure.subsampled:
                return
            with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
                log_weights(pair, tuple(arg[:count] for arg in args), 2, structure)
            return
        except ProgramError as found:
            problem = found.__cause__ or found
        except InputError:  # of its plates: others say so
            return
    if problem is not None:
        who = " and ".join(map(program_name, pair.programs.values()))
        warn(
            f"{who} can be fitted, but do not run under one more plate to the left of theirs, in which K samples of "
            f"each datum are drawn for log P(x): {got(problem)} Let them take any leading batch dimensions; else "
            f"samples are drawn as copies of the data, if they can be."
        )


def check_one_by_one(pair: Pair, args: Args, traces: Sequence[poutine.Trace]) -> None:
    """Refuse a model whose log-probability of a datum depends on more than the datum and its latents.

    What it says of the first two data, for the same latents, is held against what it says again, with other random
    numbers, and of just these: up to rounding, which is what the last digits of latents and data move in it. What does
    not run on two is left as it is.
    """
    model, num_run = traces[0], len(args[0])
    try:
        structure = structure_of(traces, num_run)
        check_scores_all(traces, structure)
        runs = [(num_run, 0), (num_run, 1), (2 if num_run > 3 else num_run, 0)]
        two = [_scored(pair, tuple(arg[:n] for arg in args), model, structure, seed) for n, seed in runs]
    except Exception:  # of whatever class: it is not known, then
        return
    if structure.subsampled or not two[0].keys() == two[1].keys() == two[2].keys():
        return
    for name, (first, again, alone) in {n: [each[n] for each in two] for n in two[0]}.items():
        _warn_of_rounding(name, first)
        if _close(first, again) and _close(first, alone):
            continue
        rounding = _rounding(pair, args, model, structure)[name]
        if not _close(first, again, rounding):
            raise InputError(
                f"Expected a model that is random at its sites only; got {program_name(pair.model)}, where the "
                f"log-probability at site {name!r} is another one, by {float((first - again).abs().max()):.3g} nats, "
                f"when it is run again with the same latents. Draw what is random there with pyro.sample, for each "
                f"datum, and not with torch.randn, dropout or inside poutine.block."
            )
        if not _close(first, alone, rounding):
            raise InputError(
                f"Expected the log-probability of a datum to be its own; got {program_name(pair.model)}, where that at "
                f"site {name!r} is another one, by {float((first - alone).abs().max()):.3g} nats, beside other data. "
                f"Look for what is computed over all of them at once (.mean(), softmax(0), .item()), and compute it "
                f"over one datum, as .mean(-1)."
            )
        if (moved := float(rounding.max())) > ROUNDED:
            warn(
                f"log P(x) is known to about {moved:.1g} nats only, as last digits of latents and data move that "
                f"at site {name!r} so: large numbers cancel in it. Give the distribution there numbers of "
                f"a higher precision, as by .double()."
            )


def _warn_of_rounding(name: str, log_prob: Tensor) -> None:
    largest = float(log_prob.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if (rounding := torch.finfo(log_prob.dtype).eps * largest) > ROUNDED:
        dtype = str(log_prob.dtype).removeprefix("torch.")
        warn(
            f"log P(x) is known to about {rounding:.1g} nats only, as site {name!r} is scored in {dtype}, which rounds "
            f"{largest:.3g} nats so. Give the distribution there numbers of a higher precision, as by .float()."
        )


def _scored(
    pair: Pair,
    args: Args,
    trace: poutine.Trace,
    structure: Structure,
    seed: int,
    *,
    changed: Callable[[Tensor], Tensor] = lambda value: value,
) -> dict[str, Tensor]:
    """Return the log-probability of the first two data at each site, where the first data have a trace's latents."""
    values, count = {}, len(args[0])
    for name, site in samples(trace).items():
        at = site["value"].dim() + structure.dim - site["fn"].event_dim
        if not site["is_observed"]:
            longer = at >= 0 and site["value"].shape[at] == structure.size
            values[name] = changed(site["value"].narrow(at, 0, count) if longer else site["value"])
    with seeded(seed), pyro.validation_enabled(False):
        found = poutine.trace(Substitute(values)(pair.model)).get_trace(*map(changed, args))
    # Times 1.0, as a factor may be of whole numbers.
    return {name: 1.0 * log_prob_by_datum(found, [name], structure, count)[0, :2] for name in samples(found)}


def _rounding(pair: Pair, args: Args, trace: poutine.Trace, structure: Structure) -> dict[str, Tensor]:
    """Return how far last digits of latents and data move the log-probability of one of the first two, at each site."""
    noise = torch.Generator().manual_seed(0)

    def changed(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        units = torch.rand(value.shape, generator=noise).to(value) * 2 - 1
        scale = value.abs().maximum(value.abs().mean())  # numbers near zero are rounded as those beside them
        other = value + LAST_DIGITS * torch.finfo(value.dtype).eps * units * scale
        return torch.where(value == value.round(), value, other)  # whole numbers are exact

    two = tuple(arg[:2] if len(args[0]) > 3 else arg for arg in args)
    base = _scored(pair, two, trace, structure, 0)
    tried = [_scored(pair, two, trace, structure, 0, changed=changed) for _ in range(TRIES)]
    return {
        name: torch.stack([(one[name] - at).abs().nan_to_num(0.0, 0.0) for one in tried]).amax()
        for name, at in base.items()
    }


def _close(one: Tensor, other: Tensor, rounding: Tensor | float = 0.0) -> bool:
    """Return whether two numbers for each datum are the same, up to the rounding of their precision and a given one."""
    off = math.sqrt(torch.finfo(one.dtype).eps)
    same = torch.isclose(one, other, rtol=off, atol=off, equal_nan=True)
    return bool((same | ((one - other).abs() <= 4 * rounding)).all())
