"""log P(x) between two bounds: bidirectional Monte Carlo on data that were simulated from the model.

For x drawn together with its z from the model, z is an exact draw from the posterior P(z | x). Annealing forwards
gives weights w with E[w] = P(x), annealing backwards from that z weights w' with E[w'] = 1 / P(x), so that

    E[log mean w]  <=  log P(x)  <=  E[-log mean w'].

How far apart the two are is how wrong annealing can be on data like the model's own.

Source: Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo, arXiv 1511.02543;
Wu et al., arXiv 1611.04273.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.annealing import Runner, annealed_importance_sampling, schedule, summary
from ppl_vae.errors import InputError
from ppl_vae.evidence import Evidence, Sandwich
from ppl_vae.pair import Program
from ppl_vae.progress import hidden
from ppl_vae.structure import Site, samples
from ppl_vae.unconstrained import Latents
from ppl_vae.work import Chunk, prepared


def sandwich(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_temperatures: int = 1000,
    num_chains: int = 16,
    num_leapfrog: int = 10,
    num_samples: int = 1000,
    proposal: str = "guide",
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Evidence:
    """Anneal the data, and as many simulated ones in both directions: `estimate_evidence(method="sandwich")`."""
    options: dict[str, Any] = {"num_temperatures": num_temperatures, "num_chains": num_chains}
    options |= {"num_leapfrog": num_leapfrog, "proposal": proposal, "chunk_size": chunk_size, "progress": progress}
    with prepared(model, guide, data, proposal=proposal, seed=seed) as work:
        _simulated(Latents(work.pair, next(iter(work.chunks(1))), work.structure, proposal))  # refuse before the work
    evidence = annealed_importance_sampling(model, guide, data, num_samples=num_samples, seed=seed, **options)
    bounds = bidirectional(model, guide, data, seed=seed + 1, **options)
    return replace(evidence, method="sandwich", sandwich=bounds)


def bidirectional(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_temperatures: int,
    num_chains: int,
    num_leapfrog: int,
    proposal: str,
    chunk_size: int | None,
    seed: int,
    progress: bool | None,
) -> Sandwich:
    """Return bounds from both sides on log P(x) of data simulated from the model, as many as there are data."""
    betas = schedule(num_temperatures)
    parts = []
    with prepared(model, guide, data, proposal=proposal, seed=seed) as work:
        run = Runner(work, proposal, num_chains, num_leapfrog, chunk_size)
        with run.progress_bar("sandwich", num_temperatures, hidden(progress), runs=2) as bar:
            for chunk in run.chunks():
                simulated, z, x = _simulated(Latents(work.pair, chunk, work.structure, proposal))
                chains = run.chains(simulated)
                plan = chains.pilot(betas, bar.update)
                lower = summary(chains.forward(plan, bar.update), plan)
                upper = summary(chains.backward(z, plan, bar.update), plan)
                n = chunk.num_data
                parts.append((lower["log_px"][:n], -upper["log_px"][:n], lower["mcse"][:n], upper["mcse"][:n], x[:n]))
    return Sandwich(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _simulated(latents: Latents) -> tuple[Chunk, Tensor, Any]:
    """Draw x and z from the model; return a chunk that holds this x, z as u [1, N, D], and x itself."""
    chunk = latents.chunk
    observed = {name: site for name, site in samples(latents.trace()).items() if site["is_observed"]}
    drawn = samples(latents.trace(poutine.uncondition))
    args = list(chunk.args)
    x = None
    for name, site in observed.items():
        at = next((i for i, arg in enumerate(chunk.args) if _holds(arg, chunk, site)), None)
        if at is None:
            raise InputError(
                f"Expected the observed site {name!r} to be one of the arguments of the model, so that simulated data "
                f"can take its place; got values that it computes. Compute them before, or use method='ais'."
            )
        if chunk.subsample is None:
            args[at] = x = drawn[name]["value"].reshape(args[at].shape)
        else:
            x = drawn[name]["value"].reshape(chunk.size, *args[at].shape[1:])
            args[at] = args[at].index_copy(0, chunk.subsample.to(args[at].device), x)
    if x is None:
        raise InputError("Expected a model with an observed site; got none. Give its data site obs=x.")
    return replace(chunk, args=tuple(args)), latents.flatten(drawn, 1), x.cpu().numpy()


def _holds(arg: Tensor, chunk: Chunk, site: Site) -> bool:
    """Return whether an argument holds just what a site observes."""
    value = site["value"]
    part = arg if chunk.subsample is None else arg[chunk.subsample.to(arg.device)]
    return part.numel() == value.numel() and torch.equal(part.reshape(-1), value.reshape(-1))
