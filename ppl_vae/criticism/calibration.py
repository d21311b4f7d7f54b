"""Whether Q(z | x) is the posterior: simulation-based calibration, without a fit to each datum.

    z ~ P(z),   x ~ P(x | z),   z_k ~ Q(z | x),  k = 1 .. K

If Q is the posterior, z and the z_k come from one distribution, and so do f(x, z) and f(x, z_k) for any function f: the
rank of the one among the others is uniform. An amortized guide answers for all simulated x at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppl_vae.criticism.ranks import Ranks
from ppl_vae.criticism.simulated_ranks import LOG_JOINT, Function, Ranked, Ranker, given
from ppl_vae.criticism.uniformity import detectable
from ppl_vae.errors import InputError, positive_int, real_number, shown, whole_from
from ppl_vae.evidence.diagnostics import LOW_ESS
from ppl_vae.evidence.prepare import prepared
from ppl_vae.generation.generate import sample
from ppl_vae.traces.pair import Program
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, Report, Reported, spread

FEW = 0.05  # the share of data with few effective draws, above which resampled ones are not to be relied on
SHOWN, TOLD = 12, 4  # quantities in the table and in the verdict


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Reported):
    """How draws of Q(z | x) lie beside the true z of M simulated data.

    The quantities are each number of each latent site (`z[3]`), log P(x, z) in nats, the distance of z from a draw of
    the prior (which makes the ranks the joint coverage of TARP), and test functions of one's own.

    Attributes:
        guide: ranks of the true values among K draws of Q, and what they say; see `Ranks`.
        resampled: the same for draws weighted by P(x, z) / Q(z | x), as importance resampling takes them.
        ess: how many of the K weighted draws count for each datum, [M].
        num_samples, seed: K, and the seed of all draws.
    """

    guide: Ranks
    resampled: Ranks
    ess: Array
    num_samples: int
    seed: int

    def __len__(self) -> int:
        return len(self.ess)

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities."""
        return self.guide.names

    @property
    def is_calibrated(self) -> bool:
        """Whether no quantity of Q leaves its band: a posterior passes with at least this level."""
        return not self.guide.outside.any()

    def words(self) -> dict[str, str]:
        """Return for each quantity what is found of Q, in words, those farthest from uniform first."""
        return {self.names[j]: self.guide.in_words(j) for j in self.guide.order()}

    def verdict(self) -> str:
        """Return one line on whether Q is calibrated, and how not."""
        if not self.is_calibrated:
            return f"Not calibrated: {self._departures(self.guide)}."
        width, bias = detectable(len(self), self.guide.level_of_each)
        return (
            f"Calibrated: nothing speaks against Q in {len(self.names)} quantities. In each a width off by a factor of "
            f"{width:.2f}, or a mean off by {bias:.2f} standard deviations, would be seen (99%)."
        )

    def verdict_of_resampled(self) -> str:
        """Return one line on draws that are resampled by importance, and on how many of them count."""
        few, without = int((self.ess < LOW_ESS).sum()), int((self.ess == 0).sum())
        counts = f"effective sample size {spread(self.ess, 0)} of {self.num_samples}"
        if without:
            words = f"not to be had for {without} of {len(self)} data, where no draw of Q has a weight above zero"
        elif self.resampled.outside.any():
            words = f"not calibrated: {self._departures(self.resampled)}"
        else:
            words = "calibrated"
        rely = "; " if few > FEW * len(self) else ""
        rely += f"for {few} of {len(self)} data below {LOW_ESS:.0f}: few draws count. Raise num_samples" if rely else ""
        return f"Resampled by importance: {words}; {counts}{rely}."

    def _departures(self, ranks: Ranks) -> str:
        count = int(ranks.outside.sum())
        first = sorted(ranks.order()[:count], key=lambda j: j >= ranks.num_latents)  # else in their order
        told = [ranks.in_words(j) for j in first[:TOLD]]
        more = f"; and {count - TOLD} more" if count > TOLD else ""
        leave = "leaves its band" if count == 1 else "leave their bands"
        return f"{count} of {len(self.names)} quantities {leave}; {'; '.join(told)}{more}"

    def report(self) -> Report:
        """Return what is printed: the quantities farthest from uniform, and the verdicts."""
        headline = (
            f"Calibration of Q(z | x) on {len(self)} (z, x) drawn from the model, K = {self.num_samples} draws each; "
            f"log P(x, z) in nats"
        )
        order, halves, nines = self.guide.order(), self.guide.coverage(0.5), self.guide.coverage(0.9)
        rows: list[tuple[str, ...]] = [("", "Q", "in 50%", "in 90%", "resampled")]
        for j, name in ((j, self.names[j]) for j in order[:SHOWN]):
            shares = (f"{share[name]:.3f}" for share in (halves, nines))
            rows.append((name, self.guide.in_short(j), *shares, self.resampled.in_short(j)))
        left, error = len(order) - SHOWN, math.sqrt(1 / len(self))
        lines = [
            *([f"{left} more quantities, nearer to uniform, are in .guide and .resampled"] if left > 0 else []),
            f"in 50%, in 90%: the share of true values in these central intervals of Q, to {0.5 * error:.3f} and "
            f"{0.3 * error:.3f} (standard errors); sd: standard deviations of Q",
            f"Bands: the posterior leaves one of {len(order)} with probability {1 - self.guide.level:.2g} at most "
            f"({1 - self.guide.level_of_each:.2g} for all ranks of each, Bonferroni).",
            self.verdict(),
            self.verdict_of_resampled(),
        ]
        return Report(headline, words=rows, lines=lines)

    def to_dataset(self) -> Any:
        """Return an `xarray.Dataset` of ranks and scores, [datum, quantity], and ess, [datum]."""
        import xarray

        both = {"": self.guide, "resampled_": self.resampled}
        arrays = {f"{k}{what}": getattr(r, what) for k, r in both.items() for what in ("ranks", "scores")}
        values = {name: (("datum", "quantity"), array) for name, array in arrays.items()} | {"ess": ("datum", self.ess)}
        attrs = {"num_samples": self.num_samples, "seed": self.seed, "level": self.guide.level}
        return xarray.Dataset(values, coords={"quantity": list(self.names)}, attrs=attrs)


def calibrate(
    model: Program,
    guide: Program,
    data: Any = None,
    *,
    num_simulated: int = 1000,
    num_samples: int = 1000,
    functions: Mapping[str, Function] | None = None,
    level: float = 0.95,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    """Say whether Q(z | x) is the posterior of data that the model itself draws, and how it is not.

        r = (#{k: f(x, z_k) < f(x, z)} + V) / (K + 1),    (z, x) ~ P(x, z),  z_k ~ Q(z | x),  V ~ U(0, 1)

    is uniform if Q is the posterior; ties are broken at random. f is each number of z, log P(x, z), which is sensitive
    to what leaves each number by itself alone, the distance from a draw of the prior, or a function of one's own. Draws
    resampled by importance are judged by the same with weights w_k = P(x, z_k) / Q(z_k | x), where V counts as much as
    a draw does, sum w^2 / sum w. Latents that are summed out are not ranked; where latents are masked, the others are.

    Args:
        model, guide, chunk_size, seed, progress: as for `estimate_evidence`; the guide has been fitted.
        data: what the model is given beside what it observes stays as it is here: shapes, conditions, masks, totals,
            where values are missing. They are used evenly, again where they are too few. None: data of the model's own,
            for a model that can be run without (`ppl_vae.sample`).
        num_simulated: M, how many (z, x) are drawn from the model; 20 or more.
        num_samples: K, how many z are drawn from the guide for each x; 2 or more.
        functions: test functions by name. Each is called with the values of the latent sites by name, [R, ...], and
            the data, [R, ...] each, one row for each draw, and returns a number for each row, [R].
        level: with which probability the posterior passes: no band of any quantity is left. Each quantity has the level
            1 - (1 - level) / J (Bonferroni); that its band holds for all ranks at once is exact.

    Returns:
        `Calibration`; `ppl_vae.plots.calibration` draws it.

    Raises:
        InputError: a model of which data cannot be drawn in the place of its arguments, latents that are all summed
            out, a guide that is random beside its sites, and all that `estimate_evidence` refuses.

    Source: Talts et al., arXiv 1804.06788; Modrak et al., arXiv 2211.02383, for log P(x, z); Saeilynoja et al., arXiv
    2103.10522, for the bands; Lemos et al., arXiv 2302.03026, for the distance (TARP).

    >>> from ppl_vae.models import LinearGaussian
    >>> from ppl_vae.guides import LinearGaussian as Posterior
    >>> model = LinearGaussian((20,), latent_dim=2)
    >>> found = calibrate(model, Posterior(model), num_simulated=100, num_samples=100)
    >>> found.names
    ('z[0]', 'z[1]', 'log P(x, z)', 'distance (TARP)')
    >>> found.guide.ranks.shape, bool((found.ess > 99.9).all())
    ((100, 4), True)
    """
    functions = _checked(num_simulated, num_samples, functions, level, chunk_size)
    num_simulated, num_samples, seed = int(num_simulated), int(num_samples), whole_from(0, "a seed", seed)
    chunk_size = None if chunk_size is None else int(chunk_size)
    level = float(level)
    if data is None:
        data = _own_data(model, num_simulated, seed)
    with prepared(model, guide, data, proposal="guide", seed=seed) as ready:
        ranker = Ranker(ready, num_samples, functions, chunk_size)
        parts = []
        with progress_bar(num_simulated, "calibration", "datum", progress) as bar:
            for chunk in given(ready, num_simulated, ranker.at_once):
                parts.append(ranker.ranks(chunk))
                bar.update(chunk.num_data)
    found = Ranked.joined(parts)
    how: dict[str, Any] = {"names": tuple(found.names), "level": level, "num_latents": found.names.index(LOG_JOINT)}
    return Calibration(
        Ranks(ranks=found.ranks, scores=found.scores, **how),
        Ranks(ranks=found.resampled_ranks, scores=found.resampled_scores, **how),
        found.ess,
        num_samples,
        seed,
    )


def _checked(
    num_simulated: int, num_samples: int, functions: Any, level: Any, chunk_size: int | None
) -> dict[str, Function]:
    if positive_int("num_simulated", num_simulated) < 20:
        raise InputError(
            f"Expected num_simulated of at least 20, to see a distribution; got {num_simulated}. Raise it."
        )
    if positive_int("num_samples", num_samples) < 2:
        raise InputError("Expected num_samples of at least 2, to rank among them; got 1. Raise it.")
    if not 0 < (real_number(level) or 0.0) < 1:
        raise InputError(f"Expected level to be a number between 0 and 1, such as 0.95; got {shown(level)}.")
    if chunk_size is not None:
        positive_int("chunk_size", chunk_size)
    if functions is None:
        return {}
    if not isinstance(functions, Mapping) or not all(map(callable, functions.values())):
        raise InputError(
            f"Expected functions by name, such as {{'norm': lambda z, x: z['z'].norm(dim=-1)}}; got "
            f"{type(functions).__name__}. Give a dict of callables."
        )
    return dict(functions)


def _own_data(model: Program, size: int, seed: int) -> Any:
    try:
        return sample(model, size, seed=seed)
    except InputError as problem:
        words = f"{problem} Or pass data, whose shapes and conditions are then used: calibrate(model, guide, data)."
        raise type(problem)(words, options=problem.options) from problem
