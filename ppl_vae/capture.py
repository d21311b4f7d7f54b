"""The log-weights of a pair as one compiled function: Pyro runs once, then only its tensor operations.

    log w_k = log P(x, z_k) - log Q(z_k | x),    z_k ~ Q(z | x),    as `trace.log_weights`, [K, N]

The pair is run once while its operations are recorded (`recorded`), and what was recorded is compiled for
the shapes it was recorded with. Three things are done to it on the way: a matrix product goes to whichever of
PyTorch's two libraries is faster here; a Bernoulli's log-probability takes one logarithm for many pixels;
parameters and buffers become arguments, so that the function uses the numbers they have when it is called.
Draws are left to PyTorch's own generator, in Pyro's order: the same seed gives the same z as plain Pyro.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from torch import Tensor, fx

from ppl_vae.errors import InputError, reason
from ppl_vae.pair import Pair
from ppl_vae.products import choose_products
from ppl_vae.recorded import record
from ppl_vae.rng import seeded
from ppl_vae.structure import Args, Structure
from ppl_vae.trace import draw, log_weights

LogWeights = Callable[[Args], Tensor]
COMPILE_SECONDS = 30.0  # from nothing; a few where the compiler's own cache has the program
SPEEDUP = 1.5  # of compiled over plain, at least, where the work is large enough for the question to arise
FACTORS = 64  # of at most 2 each in one product: 2^64 is well inside single precision
aten = torch.ops.aten


class CannotCapture(Exception):  # noqa: N818 (not a fault: the caller goes on with plain Pyro)
    """A pair cannot be turned into one compiled function; the message says why in one line."""


def compiling_pays(seconds: float) -> bool:
    """Whether work that takes plain Pyro this many seconds is done sooner if it is compiled first.

    >>> compiling_pays(10.0), compiling_pays(1000.0)
    (False, True)
    """
    return seconds > COMPILE_SECONDS + seconds / SPEEDUP


def log_weights_function(
    pair: Pair, args: Args, num_samples: int, structure: Structure, *, proposal: str = "guide"
) -> LogWeights:
    """Return a compiled function that gives the log-weights of data shaped like these, in nats, [num_samples, N].

    Each call draws anew from PyTorch's global generator: for the same seed the weights are those of
    `trace.log_weights`, up to rounding. It uses the values that parameters and buffers have when it is called;
    everything else that the programs read (numbers, Python's attributes) is as it was here. Before it is
    returned it is held against plain Pyro, on these data and on the same in another order.

    Args:
        pair: the two programs; call it within `pair.running()` and `pair.evaluating()`.
        args: what both are called with, all tensors: x first. Real data: the function is tried on them.
        num_samples: K, how many z are drawn for each datum.
        structure: as `structure_of` found it.
        proposal: "guide" or "prior".

    Raises:
        CannotCapture: the programs cannot be recorded or compiled (Python that depends on values, a plate that takes
            a random subset of the data, no C++ compiler).
        InputError: as `trace.log_weights`.

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> from ppl_vae.structure import structure_of
    >>> from ppl_vae.trace import get_traces
    >>> model = LinearGaussian((20,), latent_dim=4)
    >>> pair, x = Pair(model, Posterior(model)), torch.randn(5, 20)
    >>> with pair.running(), pair.evaluating(), torch.no_grad():
    ...     structure = structure_of(get_traces(pair, (x,)), num_data=5)
    ...     weights = log_weights_function(pair, (x,), 3, structure)((x,))
    >>> torch.allclose(weights, model.exact_log_px(x).expand(3, 5), atol=1e-4)
    True
    """
    if structure.subsampled:
        raise CannotCapture("the program takes a random subset of its data")
    if not all(isinstance(value, Tensor) for value in args):
        raise CannotCapture("the program is called with something that is not a tensor")

    def plain(*tensors: Tensor) -> Tensor:
        return draw(pair, tensors, num_samples, structure, proposal=proposal).log_weights

    with seeded(0), torch.no_grad(), pyro.validation_enabled(False):
        # This makes parameters that do not exist yet, and what is wrong in plain Pyro is told by plain Pyro.
        log_weights(pair, args, num_samples, structure, proposal=proposal)
        graph = _recorded(plain, args)
        held = _lift(graph)
        choose_products(graph.graph)
        _fewer_logarithms(graph)
        graph.graph.eliminate_dead_code()
        compiled = _compiled(graph, (*args, *held))
    shapes = [(value.shape, value.dtype, value.device) for value in args]

    def captured(args: Args) -> Tensor:
        if [(value.shape, value.dtype, value.device) for value in args] != shapes:
            raise InputError(
                f"Expected data of the shapes it was compiled for, {[tuple(s) for s, *_ in shapes]}; got "
                f"{[tuple(value.shape) for value in args]}. Fill a short batch up, or compile for it as well."
            )
        with torch.no_grad():
            return compiled(*(value.contiguous() for value in args), *held)

    _hold_against(plain, captured, args)
    return captured


def _recorded(plain: Callable[..., Tensor], args: Args) -> fx.GraphModule:
    try:
        return record(plain, *args)
    except Exception as problem:  # whatever a program may do that cannot be recorded
        raise CannotCapture(
            f"the program cannot be recorded ({type(problem).__name__}: {reason(problem)})"
        ) from problem


def _lift(graph: fx.GraphModule) -> list[Tensor]:
    """Make the tensors that a graph holds (parameters, buffers, constants) arguments after its own; return them."""
    first = {n: n for n in graph.graph.nodes if n.op == "placeholder"}
    last = list(first)[-1]
    held: dict[int, tuple[Tensor, fx.Node]] = {}
    for node in [n for n in graph.graph.nodes if n.op == "get_attr"]:
        tensor = operator.attrgetter(str(node.target))(graph)
        if id(tensor) not in held:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"held_{len(held)}")
            last.meta = node.meta | {"val": tensor}
            held[id(tensor)] = (tensor, last)
        node.replace_all_uses_with(held[id(tensor)][1])
        graph.graph.erase_node(node)
    graph.recompile()
    return [tensor for tensor, _ in held.values()]


def _compiled(graph: fx.GraphModule, inputs: Args) -> Callable[..., Tensor]:
    from torch._inductor import compile as inductor

    graph.graph.lint()
    graph.recompile()
    try:
        # Fallback: draws are made by PyTorch's own generator, as plain Pyro's are.
        compiled = inductor(graph, list(inputs), options={"fallback_random": True})
        compiled(*inputs)
    except Exception as problem:  # no compiler, or one that fails
        raise CannotCapture(
            f"the program cannot be compiled ({type(problem).__name__}: {reason(problem)})"
        ) from problem

    def call(*inputs: Tensor) -> Tensor:
        result = compiled(*inputs)
        return cast(Tensor, result[0] if isinstance(result, tuple | list) else result)

    return call


def _hold_against(plain: Callable[..., Tensor], captured: LogWeights, args: Args) -> None:
    """Refuse a function that does not give plain Pyro's weights for the same noise.

    Python that looks at values behind PyTorch's back (x.numpy()) is recorded as a constant; the data in
    another order show it.
    """
    for some in (args, tuple(value.flip(tuple(range(value.dim()))) for value in args)):
        with seeded(1), torch.no_grad(), pyro.validation_enabled(False):
            expected = plain(*some)
        with seeded(1):
            got = captured(some)
        if not torch.allclose(got, expected, rtol=1e-4, atol=1e-3, equal_nan=True):
            raise CannotCapture("the program does something else on each run that is not a draw by pyro.sample")


def bernoulli_log_prob(h: Tensor, x: Tensor) -> Tensor:
    """Return log P(x | h) = sum_i x_i h_i - max(h_i, 0) - log(1 + exp(-|h_i|)), summed over the last dimension.

    The sum of logarithms is taken as the logarithm of products of up to 64 of the factors, which are between
    1 and 2: exponentials and logarithms are what the sum costs.

    >>> h, x = torch.randn(5, 784), torch.rand(5, 784).round()
    >>> expected = torch.distributions.Bernoulli(logits=h).log_prob(x).sum(-1)
    >>> torch.allclose(bernoulli_log_prob(h, x), expected, atol=1e-3)
    True
    """
    size = h.shape[-1]
    products = next(n for n in range(-(-size // FACTORS), size + 1) if size % n == 0)
    factors = 1 + (-h.abs()).exp()
    logarithms = factors.unflatten(-1, (size // products, products)).prod(-2).log().sum(-1)
    return (x * h - h.clamp(min=0)).sum(-1) - logarithms


def _fewer_logarithms(graph: fx.GraphModule) -> None:
    """Put `bernoulli_log_prob` in the place of a sum over pixels of Bernoulli log-probabilities."""
    for node in list(graph.graph.nodes):
        chain = _chain(node, [aten.binary_cross_entropy_with_logits.default, aten.neg.default, aten.view.default])
        total = next(iter(chain[-1].users)) if len(chain) == 3 and len(chain[-1].users) == 1 else None
        if total is None or total.target is not aten.sum.dim_IntList or total.args[1:] != ([-1],):
            continue
        h, x, *rest = node.args
        values, flat = [n.meta["val"] for n in (h, x)], chain[-1].meta["val"].shape
        wide = all(v.dtype in (torch.float32, torch.float64) for v in values)  # others cannot hold 2^64
        if any(option not in (None, 0) for option in rest) or values[0].shape != values[1].shape or not wide:
            continue
        examples = [torch.zeros(v.shape, dtype=v.dtype, device=v.device).reshape(flat) for v in values]
        replacement = record(bernoulli_log_prob, *examples)
        with graph.graph.inserting_before(total):
            flattened = [graph.graph.call_function(aten.reshape.default, (n, list(flat))) for n in (h, x)]
            places = dict(zip((n for n in replacement.graph.nodes if n.op == "placeholder"), flattened, strict=True))
            result = graph.graph.graph_copy(replacement.graph, cast(Any, places))
        total.replace_all_uses_with(cast(fx.Node, result))


def _chain(node: fx.Node, targets: list[Any]) -> list[fx.Node]:
    """Return the node and those that follow it, each the only user of the one before, as far as targets agree."""
    found: list[fx.Node] = []
    for target in targets:
        if node.target is not target:
            break
        found.append(node)
        if len(node.users) != 1:
            break
        node = next(iter(node.users))
    return found
