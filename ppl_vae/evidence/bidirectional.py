"""log P(x) between two bounds: bidirectional Monte Carlo on data that were simulated from the model.

For x drawn together with its z from the model, z is an exact draw from P(z | x). Annealing forwards gives weights w
with E[w] = P(x), annealing backwards from that z weights w' with E[w'] = 1 / P(x), so that

    E[log mean w]  <=  log P(x)  <=  E[-log mean w'].

Source: Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo, arXiv 1511.02543;
Wu et al., arXiv 1611.04273.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from ppl_vae.evidence.ais import Annealer, Tick, annealed_importance_sampling, at_once, one_datum
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.numbers import Sandwich
from ppl_vae.evidence.options import AnnealingOptions
from ppl_vae.evidence.prepare import Chunk, Prepared
from ppl_vae.evidence.simulated import simulate
from ppl_vae.evidence.tempered import Latents
from ppl_vae.utils.report import Array
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads


def sandwich(prepared: Prepared, options: AnnealingOptions, threads: Threads) -> Evidence:
    """Anneal the data, and as many simulated ones in both directions: `estimate_evidence(method="sandwich")`."""
    prepared = at_once(prepared, options)
    with seeded(0):
        _simulated(one_datum(prepared, options), options.joint)  # refuse before the long work
    evidence = annealed_importance_sampling(prepared, options, threads)
    with prepared.drawing(options.seed + 1, options.proposal) as ready:
        annealer = Annealer(ready, options, threads, runs=2)

        def bounds(chunk: Chunk, tick: Tick) -> dict[str, Array]:
            latents = Latents(ready.pair, chunk, ready.structure, options.proposal)
            simulated, z, x = _simulated(latents, options.joint)
            chains = annealer.chains(simulated, tick)
            lower, upper = chains.forward(), chains.backward(z)
            mcse = {"lower_mcse": lower["mcse"], "upper_mcse": upper["mcse"]}
            return {"lower": lower["log_px"], "upper": -upper["log_px"], **mcse, "x": x}

        found = Sandwich(**annealer.over_chunks("sandwich", bounds))
    return replace(evidence, method="sandwich", sandwich=found)


def _simulated(latents: Latents, joint: bool) -> tuple[Chunk, Tensor, Any]:
    """Draw x, z and, if they are scored (`joint`), conditions; return a chunk of them, z as u [1, N, D], and x."""
    found = simulate(latents.pair, latents.chunk, latents.structure, joint=joint, otherwise="use method='ais'")
    return found.chunk, latents.flatten(found.sites, 1), found.x.cpu().numpy()
