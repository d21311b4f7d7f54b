"""z of data by the guide: its mean and draws of Q(z | x), for each latent site and each datum.

Given the sites that come before it in the guide, a site's distribution mostly says its own mean; the mean over draws of
these is the site's mean under Q, exact where no other site comes before (Rao & Blackwell).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical

from ppl_vae.distributions.unwrap import mean_of, parameters_of
from ppl_vae.errors import InputError, positive_int, whole_from
from ppl_vae.evidence.prepare import Chunk, Prepared, prepared
from ppl_vae.traces.pair import Program, program_name
from ppl_vae.traces.plates import samples, value_by_datum
from ppl_vae.traces.run import fixed, run_pair
from ppl_vae.traces.sites import Kind, Site, of_kind
from ppl_vae.utils.memory import check_memory
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, Report, Reported, number

AT_ONCE = 1000  # data in one run of the guide
SAME = 1e-6  # relative to the numbers: by so little do means differ that are one, by the rounding of their order


@dataclass(frozen=True, eq=False, repr=False)
class Encoding(Reported):
    """z of N data under Q(z | x), by latent site; print it.

    Attributes:
        mean: E_Q[z] by site, [N, ...]; NaN for a site of categories, whose numbers are names.
        mcse: the Monte Carlo standard errors of these, [N, ...]; 0 where Q says its mean itself.
        draws: S draws of Q by site, [S, N, ...].
        num_samples: how many draws of Q are behind the means that it does not say itself.
        seed: of the draws.
    """

    mean: dict[str, Array]
    mcse: dict[str, Array]
    draws: dict[str, Array]
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(next(iter(self.mean.values())))

    def names(self) -> list[str]:
        """Return a name for each number of z: "z[0]", "z[1]", ..., or "z" where a site is one number."""
        return [
            f"{site}{list(index)}" if index else site
            for site, values in self.mean.items()
            for index in np.ndindex(values.shape[1:])
        ]

    def matrix(self) -> Array:
        """Return the means of all sites beside each other, [N, D], in the order of `names`."""
        return _beside(self.mean)

    def to_frame(self, *, draws: bool = False) -> pd.DataFrame:
        """Return a pandas table with a row for each datum: the mean of each number of z, and errors that are not 0.

        Args:
            draws: with the draws, too, in columns such as "z[0] (draw 1)".
        """
        names, errors = self.names(), _beside(self.mcse)
        columns: dict[str, Any] = dict(zip(names, self.matrix().T, strict=True))
        columns |= {f"{n} (MCSE)": e for n, e in zip(names, errors.T, strict=True) if (e > 0).any()}
        for s in range(len(next(iter(self.draws.values()))) if draws else 0):
            drawn = _beside({site: values[s] for site, values in self.draws.items()})
            columns |= {f"{n} (draw {s + 1})": z for n, z in zip(names, drawn.T, strict=True)}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="datum"))

    def report(self) -> Report:
        """Return what is printed: the sites, how their means vary over the data, and how sure they are."""
        count = len(next(iter(self.draws.values())))
        headline = f"z of {len(self)} data by the guide, Q(z | x): means and {count} draw{'s' * (count > 1)}"
        rows = [("site", "numbers", "sd of means over data", "sd of draws", "MCSE of means")]
        for site, mean in self.mean.items():
            flat, draws = mean.reshape(len(self), -1), self.draws[site]
            over_data = float(flat.std(0).mean()) if flat.size else float("nan")
            within = float(draws.std(0).mean()) if count > 1 else float("nan")
            error = float(self.mcse[site].max()) if flat.size else 0.0
            shape = " x ".join(map(str, mean.shape[1:])) or "1"
            said = "exact" if error == 0 else f"at most {number(error)}"
            said = "no mean: categories" if np.isnan(mean).any() else said
            cells = (site, shape, number(over_data), number(within), said)
            rows.append(cells)
        lines = ["Q is the guide, no posterior where it is far from it: explain says how far, calibrate in what way."]
        return Report(headline, words=rows, lines=lines)


def encode(
    model: Program,
    guide: Program,
    data: Any,
    *,
    num_draws: int = 10,
    num_samples: int = 100,
    seed: int = 0,
    progress: bool | None = None,
) -> Encoding:
    """Return z of data by the guide: the mean of Q(z | x) and draws of it, for each latent site.

        E_Q[z_s | x] = E_Q[E_Q[z_s | z_before, x] | x],    z ~ Q(z | x)

    Args:
        model: P(x, z), called as `model(*batch)`.
        guide: Q(z | x), called the same way.
        data: as for `estimate_evidence`, in a fixed order; of a conditional model with its y.
        num_draws: S, how many z to draw for each datum.
        num_samples: how many draws stand behind a mean that Q does not say itself, as that of a site that depends on
            another one, or of a flow.
        seed: of the draws; the global random state is left as it was.
        progress: show a progress bar; None shows it in a terminal and in a notebook.

    Returns:
        `Encoding`: .mean, .mcse and .draws by the name of a site, as NumPy arrays; `to_frame()` for a table.

    Raises:
        InputError: as `estimate_evidence`; a guide that samples no latent site.

    Source: Kingma & Welling, arXiv 1312.6114; for the means, Casella & Robert, Biometrika 83 (1996).

    >>> from ppl_vae.guides import MeanField
    >>> from ppl_vae.models import VAE
    >>> model = VAE((1, 8, 8))
    >>> found = encode(model, MeanField(model), torch.zeros(5, 1, 8, 8), num_draws=3)
    >>> found.mean["z"].shape, found.draws["z"].shape, float(found.mcse["z"].max())
    ((5, 8), (3, 5, 8), 0.0)
    """
    num_draws, num_samples = positive_int("num_draws", num_draws), positive_int("num_samples", num_samples)
    seed = whole_from(0, "a seed", seed)
    check_memory("draws", num_draws)
    parts: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = []
    with (
        prepared(model, guide, data, proposal="guide", seed=seed) as ready,
        progress_bar(len(ready.source), "encode", "datum", progress) as bar,
    ):
        names = _latents(ready, next(ready.chunks(1)))
        numbers = num_draws * len(ready.source) * ready.structure.numel
        check_memory("draws", numbers, "Ask for fewer draws, or encode fewer data at once.")
        for chunk in ready.chunks(AT_ONCE):
            parts.append(_encoded(ready, chunk, names, num_draws, num_samples))
            bar.update(chunk.num_data)

    def joined(which: int, axis: int) -> dict[str, Array]:
        return {name: torch.cat([part[name][which] for part in parts], axis).numpy() for name in names}

    return Encoding(joined(0, 0), joined(1, 0), joined(2, 1), num_samples, seed)


def _latents(ready: Prepared, chunk: Chunk) -> list[str]:
    """Return the names of the model's latents that the guide samples and that are not summed out."""
    pair, structure = ready.pair, ready.structure
    with fixed(structure, chunk.subsample):
        model, guide = map(samples, run_pair(pair.model, pair.guide, chunk.args, num_samples=None, structure=structure))
    names = [n for n in of_kind(guide, Kind.ANSWER, Kind.POINT, model=model) if n not in structure.summed]
    if not names:
        assert pair.guide is not None
        raise InputError(
            f"Expected a guide that samples latent sites of the model; got {program_name(pair.guide)}, which samples "
            f"none. Take one with a Q(z | x)."
        )
    return names


def _encoded(
    ready: Prepared, chunk: Chunk, names: list[str], num_draws: int, num_samples: int
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return mean, its error and draws of each site, for some data."""
    drawn: dict[str, list[Tensor]] = {name: [] for name in names}
    means = {name: _Running() for name in names}
    for sites in _runs(ready, chunk):
        for name in names:
            value, mean = _by_datum(sites[name], ready, chunk)
            means[name].add(mean)
            if len(drawn[name]) < num_draws:
                drawn[name].append(value)
        count, alone = means[names[0]].count, len(sites) == 1  # nothing that its mean could depend on
        enough = 2 if alone and means[names[0]].is_constant else max(2, num_samples)
        if count >= max(enough, num_draws):
            break
    return {name: (*means[name].result(), torch.stack(drawn[name])) for name in names}


def _runs(ready: Prepared, chunk: Chunk) -> Iterator[dict[str, Site]]:
    """Yield the sites of one run of the guide after the other, without end."""
    assert ready.pair.guide is not None
    while True:
        with fixed(ready.structure, chunk.subsample):
            yield samples(poutine.trace(ready.pair.guide).get_trace(*chunk.args))


def _by_datum(site: Site, ready: Prepared, chunk: Chunk) -> tuple[Tensor, Tensor]:
    """Return what a run drew at a site, and the mean that its distribution says, or else what it drew; [n, ...]."""
    drawn, mean = site["value"], mean_of(site["fn"])
    if isinstance(parameters_of(site["fn"]), Categorical):
        mean = torch.full_like(drawn, torch.nan, dtype=torch.double)
    elif bool(mean.isnan().any()):
        mean = drawn
    found = []
    for value in (drawn, mean.expand_as(drawn) if mean.shape != drawn.shape else mean):
        numbers = value_by_datum(site | {"value": value}, ready.structure)[0]
        found.append(numbers.expand(chunk.size, *numbers.shape[1:])[: chunk.num_data].cpu())
    return found[0], found[1].double()


class _Running:
    """The mean of some tensors, and its standard error, found one after the other."""

    def __init__(self) -> None:
        self.count, self.is_constant = 0, True
        self.first, self.sum, self.squares = torch.zeros(()), torch.zeros(()), torch.zeros(())

    def add(self, value: Tensor) -> None:
        if not self.count:
            self.first, self.sum, self.squares = value, torch.zeros_like(value), torch.zeros_like(value)
        else:  # sums of differences from the first do not cancel
            change = value - self.first
            self.sum, self.squares = self.sum + change, self.squares + change**2
            moved = change.abs() > SAME * (1 + self.first.abs())
            self.is_constant = self.is_constant and not bool(moved.any())
        self.count += 1

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the mean and its standard error, of two or more."""
        if self.is_constant:
            return self.first, torch.zeros_like(self.first)
        off = self.sum / self.count
        variance = (self.squares / self.count - off**2).clamp(min=0.0) / (self.count - 1)
        return self.first + off, variance.sqrt()


def _beside(sites: dict[str, Array]) -> Array:
    """Return the numbers of all sites beside each other, [N, D]."""
    return np.concatenate([values.reshape(len(values), -1) for values in sites.values()], axis=1)
