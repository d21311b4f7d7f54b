"""A pair and an objective as one compiled function: Pyro runs once, then only its tensor operations.

    log_weights_function    log w_k = log P(x, z_k) - log Q(z_k | x), as `trace.log_weights`, [K, N]
    gradients_function      an objective's loss and its gradients, as its own `loss_and_grads`

The pair is run once while its operations are recorded (`recorded`), and what was recorded is rewritten (`rewriting`,
`products`) and compiled for the shapes it was recorded with. Parameters, buffers and all other tensors that the
programs hold become arguments, so that the function uses the numbers they have when it is called: weights that an
optimizer moves, a weight of the KL divergence that an objective raises. Draws are left to PyTorch's own generator, in
Pyro's order: the same seed gives the same z as plain Pyro, and against plain Pyro each function is held before it is
used.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, fx

from ppl_vae.errors import InputError, reason
from ppl_vae.pair import Pair
from ppl_vae.products import choose_products
from ppl_vae.recorded import folded, record
from ppl_vae.rewriting import rewrite
from ppl_vae.rng import seeded
from ppl_vae.structure import Args, Structure
from ppl_vae.surrogate import CannotCapture, loss_and_surrogate
from ppl_vae.trace import draw, log_weights

__all__ = ["CannotCapture", "capture", "compiling_pays", "gradients_function", "log_weights_function"]

LogWeights = Callable[[Args], Tensor]
Gradients = Callable[[Args], tuple[Tensor, ...]]
COMPILE_SECONDS = 30.0  # from nothing; a few where the compiler's own cache has the program
KNOWN = 32  # compiled functions that are kept, for programs that do the same operations on other tensors
SPEEDUP = 1.5  # of compiled over plain, at least, where the work is large enough for the question to arise

_known: dict[tuple[str, str, int], Callable[..., tuple[Tensor, ...]]] = {}


def compiling_pays(seconds: float) -> bool:
    """Whether work that takes plain Pyro this many seconds is done sooner if it is compiled first.

    >>> compiling_pays(10.0), compiling_pays(1000.0)
    (False, True)
    """
    return seconds > COMPILE_SECONDS + seconds / SPEEDUP


def capture(function: Callable[..., Any], *examples: Tensor, once: bool = False) -> Callable[..., tuple[Tensor, ...]]:
    """Return a compiled function that gives the same tensors as a function, for arguments of the examples' shapes.

    A function that does the same operations as one before, on other tensors that it holds, is not compiled again.

    Args:
        function: returns a tensor, or a tuple of them; what it does must not depend on values but through tensors.
        examples: arguments; it is run on them.
        once: compute what does not depend on the arguments now, and never again.

    Raises:
        CannotCapture: it cannot be recorded or compiled (Python that depends on values, no C++ compiler).

    >>> double = capture(lambda x: x + x, torch.ones(3))
    >>> double(torch.arange(3.0))
    (tensor([0., 2., 4.]),)
    """
    try:
        with pyro.validation_enabled(False):
            graph = folded(record(function, *examples)) if once else record(function, *examples)
    except CannotCapture:
        raise
    except Exception as problem:  # whatever a program may do that cannot be recorded
        raise CannotCapture(
            f"the program cannot be recorded ({type(problem).__name__}: {reason(problem)})"
        ) from problem
    held = _lift(graph)
    rewrite(graph.graph)
    choose_products(graph.graph)
    compiled = _compiled(graph, (*examples, *held))

    def captured(*args: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return compiled(*(value.contiguous() for value in args), *held)

    return captured


def gradients_function(pair: Pair, objective: ELBO, parameters: list[Tensor], args: Args) -> Gradients:
    """Return a compiled function that gives an objective's loss and its gradients, for data shaped like these.

        (loss, d loss / d parameter_1, d loss / d parameter_2, ...)

    in nats, summed over the data; the draws are those of the objective's own `loss_and_grads`, from PyTorch's global
    generator. A parameter that the loss does not depend on has a gradient of zeros.

    Args:
        pair: the two programs; call it within `pair.running()`, in the mode in which it will be called.
        objective: a Pyro ELBO.
        parameters: what to differentiate by.
        args: what both are called with, all tensors: x first. Real data: the function is tried on them.

    Raises:
        CannotCapture: the programs cannot be recorded or compiled, sites are not reparameterized, or the objective is
            of no kind that is known.

    >>> from pyro.infer import Trace_ELBO
    >>> from ppl_vae.models import VAE
    >>> from ppl_vae.guides import MeanField
    >>> model = VAE((1, 8, 8))
    >>> pair, x = Pair(model, MeanField(model)), torch.rand(5, 1, 8, 8).round()
    >>> with pair.running():
    ...     function = gradients_function(pair, Trace_ELBO(), pair.parameters(), (x,))
    ...     loss, *gradients = function((x,))
    >>> len(gradients) == len(pair.parameters())
    True
    """
    _check_tensors(args)

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            loss, surrogate = loss_and_surrogate(objective, pair, tensors)
            found = torch.autograd.grad(surrogate, parameters, allow_unused=True, materialize_grads=True)
        return (loss.detach(), *found)

    def by_pyro(*tensors: Tensor) -> tuple[Tensor, ...]:
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        loss = torch.as_tensor(cast(Any, objective).loss_and_grads(pair.model, pair.guide, *tensors))
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
        return (loss.to(found[0]), *found)

    buffers = pair.snapshot()  # a run may change some, as batch normalization does
    try:
        with seeded(0), torch.enable_grad():
            by_pyro(*args)  # what an objective finds out once is found out before anything is recorded
            function = capture(plain, *args)
            captured: Gradients = lambda args: function(*args)  # noqa: E731
        _hold_against(by_pyro, captured, args, pair, buffers)
    finally:
        pair.restore(buffers)
    return captured


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
    _check_tensors(args)

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
        return (draw(pair, tensors, num_samples, structure, proposal=proposal).log_weights,)

    with seeded(0), torch.no_grad():
        # This makes parameters that do not exist yet, and what is wrong in plain Pyro is told by plain Pyro.
        log_weights(pair, args, num_samples, structure, proposal=proposal)
        function = capture(plain, *args)
    shapes = [(value.shape, value.dtype, value.device) for value in args]

    def captured(args: Args) -> Tensor:
        if [(value.shape, value.dtype, value.device) for value in args] != shapes:
            raise InputError(
                f"Expected data of the shapes it was compiled for, {[tuple(s) for s, *_ in shapes]}; got "
                f"{[tuple(value.shape) for value in args]}. Fill a short batch up, or compile for it as well."
            )
        return function(*args)[0]

    with torch.no_grad():
        _hold_against(plain, lambda args: (captured(args),), args)
    return captured


def _check_tensors(args: Args) -> None:
    if not all(isinstance(value, Tensor) for value in args):
        raise CannotCapture("the program is called with something that is not a tensor")


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
    graph._parameters.clear()  # or they would be arguments a second time
    graph._buffers.clear()
    graph.recompile()
    return [tensor for tensor, _ in held.values()]


def _compiled(graph: fx.GraphModule, inputs: Args) -> Callable[..., tuple[Tensor, ...]]:
    from torch._inductor import compile as inductor

    graph.graph.lint()
    graph.recompile()
    layouts = [(value.shape, value.stride(), value.dtype, value.device) for value in inputs]
    key = (graph.code, str(layouts), torch.get_num_threads())  # all tensors are arguments: the code says the rest
    if key in _known:
        return _known[key]
    try:
        with torch.no_grad():
            # Fallback: draws are made by PyTorch's own generator, as plain Pyro's are.
            compiled = inductor(graph, list(inputs), options={"fallback_random": True})
            compiled(*inputs)
    except Exception as problem:  # no compiler, or one that fails
        raise CannotCapture(
            f"the program cannot be compiled ({type(problem).__name__}: {reason(problem)})"
        ) from problem

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        result = compiled(*inputs)
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    _known[key] = call
    if len(_known) > KNOWN:
        _known.pop(next(iter(_known)))  # the oldest
    return call


def _hold_against(
    plain: Callable[..., tuple[Tensor, ...]],
    captured: Callable[[Args], tuple[Tensor, ...]],
    args: Args,
    pair: Pair | None = None,
    before: dict[str, Tensor] | None = None,
) -> None:
    """Refuse a function that does not give plain Pyro's numbers for the same noise.

    Python that looks at values behind PyTorch's back (x.numpy()) is recorded as a constant; the data in
    another order show it.
    """
    for some in (args, tuple(value.flip(tuple(range(value.dim()))) for value in args)):
        results = []
        both: tuple[Callable[..., tuple[Tensor, ...]], ...] = (plain, lambda *values: captured(values))
        for function in both:
            if pair is not None and before is not None:
                pair.restore(before)
            with seeded(1), pyro.validation_enabled(False):
                results.append(function(*some))
        expected, got = results
        scale = max((float(e.abs().max()) for e in expected[1:] if e.numel()), default=1.0)  # of all gradients
        for i, (one, other) in enumerate(zip(got, expected, strict=True)):
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 if i == 0 else 1e-4 * scale, equal_nan=True):
                raise CannotCapture("the program does something else on each run that is not a draw by pyro.sample")
