"""Why one fitted pair gives data a higher log P(x) than another: datum by datum, split in three without a remainder.

    log P(x) = E_Q[log P(x | z)] + E_Q[log P(z) - log Q(z | x)] + (log P(x) - ELBO)
               reconstruction      latents: -KL(Q || P(z))         gap: KL(Q || P(z | x))

so the difference of two log P(x) is the sum of three differences. The first two are means over the same samples of the
guide, whose sum is the ELBO that the gap is taken to; log P(x) is whatever estimate one has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from ppl_vae.criticism.comparable import as_groups
from ppl_vae.data.as_source import fingerprint
from ppl_vae.errors import InputError
from ppl_vae.evidence.evidence import Evidence
from ppl_vae.evidence.options import ImportanceOptions
from ppl_vae.evidence.prepare import prepared
from ppl_vae.evidence.weight_sampler import Sampler
from ppl_vae.traces.pair import Program
from ppl_vae.utils.progress import progress_bar
from ppl_vae.utils.report import Array, Mean, Report, Reported
from ppl_vae.utils.rng import seeded
from ppl_vae.utils.threads import Threads

PARTS = ("reconstruction", "latents", "gap")
LEVEL = 0.05  # how often pairs that do not differ are said to
NAMED = 5  # data that moved most, in what is printed


@dataclass(frozen=True, eq=False)
class Split:
    """log P(x) of N data by one pair, in three parts whose sum it is; all in nats.

    Attributes:
        log_px: log P(x) per datum, [N].
        reconstruction: E_Q[log P(x | z)], [N]: of all that is observed; discrete latents that are summed out are part
            of P(x | z).
        latents: E_Q[log P(z) - log Q(z | x)] = -KL(Q || P(z)), what the use of the latents costs, [N].
        mcse, reconstruction_mcse, latents_mcse, gap_mcse: Monte Carlo standard errors, [N].
    """

    log_px: Array
    reconstruction: Array
    latents: Array
    mcse: Array
    reconstruction_mcse: Array
    latents_mcse: Array
    gap_mcse: Array

    @property
    def elbo(self) -> Array:
        """The evidence lower bound, reconstruction + latents, per datum, [N]."""
        return self.reconstruction + self.latents

    @property
    def gap(self) -> Array:
        """Log P(x) - ELBO per datum, [N]."""
        with np.errstate(invalid="ignore"):  # both are minus infinity where the model rules all draws out
            return self.log_px - self.elbo

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Which data have a finite log P(x) and ELBO, [N]: infinity has no parts."""
        return np.isfinite(self.log_px) & np.isfinite(self.reconstruction) & np.isfinite(self.latents)


@dataclass(frozen=True, eq=False, repr=False)
class Difference(Reported):
    """log P(x) of the pair B minus that of A, for the same N data, and its three parts; print it.

    Attributes:
        a, b: log P(x) by each pair, in parts (`Split`).
        names: what A and B are called.
        doubtful: which data are in doubt in the estimate of either, [N].
        verdicts: what is said of an estimate that cannot be believed or judged as a whole, by name.
        num_samples: K, draws of z behind reconstruction and latents.
        fingerprint: a hash of the data.
        quantity: what was estimated: "log P(x)", or for conditional models "log P(x | y)".
    """

    a: Split
    b: Split
    names: tuple[str, str]
    doubtful: NDArray[np.bool_]
    verdicts: dict[str, str]
    num_samples: int
    fingerprint: str
    quantity: str = "log P(x)"

    def __len__(self) -> int:
        return len(self.a.log_px)

    @property
    def log_px(self) -> Array:
        """Log P(x) by B minus that by A per datum, [N]: the sum of the three parts."""
        return _minus(self.b.log_px, self.a.log_px)

    @property
    def reconstruction(self) -> Array:
        """How much better B explains x from z, per datum, [N]: above 0, E_Q[log P(x | z)] is higher."""
        return _minus(self.b.reconstruction, self.a.reconstruction)

    @property
    def latents(self) -> Array:
        """How much less B pays for its latents, per datum, [N]: above 0, KL(Q || P(z)) is smaller."""
        return _minus(self.b.latents, self.a.latents)

    @property
    def gap(self) -> Array:
        """How much more of log P(x) the ELBO of B leaves out, per datum, [N]: above 0, Q is farther from P(z | x)."""
        return _minus(self.b.gap, self.a.gap)

    def mcse(self, part: str = "log_px") -> Array:
        """Return the Monte Carlo standard error of a part, or of all, per datum, [N]: both pairs draw for themselves.

        Args:
            part: "reconstruction", "latents", "gap" or "log_px".
        """
        name = "mcse" if part == "log_px" else f"{part}_mcse"
        return np.hypot(getattr(self.a, name), getattr(self.b, name))

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Which data have a finite log P(x) and ELBO by both, [N]: the others have no parts."""
        return self.a.whole & self.b.whole

    def means(self, among: NDArray[np.bool_] | None = None) -> dict[str, Mean]:
        """Return the means of log_px and its parts in nats, with paired standard errors.

        Args:
            among: the data to take, [N]; None takes all that have parts.
        """
        index = self.whole if among is None else among & self.whole
        return {name: Mean.of(getattr(self, name)[index], self.mcse(name)[index]) for name in ("log_px", *PARTS)}

    @cached_property
    def part(self) -> NDArray[np.str_]:
        """The part that moved each datum most in the direction in which it moved, [N]; "" where there are no parts."""
        shares = np.stack([getattr(self, name) for name in PARTS])
        with np.errstate(invalid="ignore"):
            most = np.argmax(np.nan_to_num(shares * np.sign(self.log_px)), 0)
        return np.where(self.whole, np.array(PARTS)[most], "")

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas table with a row for each datum, in nats: log_px, its parts, their MCSE, and more.

        Columns: log_px, reconstruction, latents, gap (B minus A), log_px_mcse and so on, part (which moved it most),
        in_doubt (in either estimate). Its index, `datum`, counts from 0.
        """
        names = ("log_px", *PARTS)
        columns: dict[str, Any] = {name: getattr(self, name) for name in names}
        columns |= {f"{name}_mcse": self.mcse(name) for name in names}
        columns |= {"part": self.part, "in_doubt": self.doubtful}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="datum"))

    def largest(self, count: int = 10) -> pd.DataFrame:
        """Return the rows of `to_frame` of the data that moved most, up or down, the largest first."""
        moved = self.to_frame()[self.whole]
        return moved.iloc[np.argsort(-np.abs(moved["log_px"].to_numpy()), kind="stable")[:count]]

    def verdict(self) -> str:
        """Return one line on which pair is better, by how much, and through which parts."""
        if not self.whole.any():
            return f"Cannot be split: no datum has a finite {self.quantity} and ELBO by both."
        if not self.verdicts:
            return f"{self._judged()}."
        believed = not any(verdict.startswith("Not") for verdict in self.verdicts.values())
        start = "Cannot be judged" if believed else "Not to be believed"
        whose = " and by ".join(self.verdicts)
        return f"{start}, as {self.quantity} by {whose} is not: as estimated, {self._judged()}."

    def _judged(self) -> str:
        """Return which pair is better, by how much and by which parts, in words."""
        first, second = self.names
        means = self.means()
        diff = means["log_px"]
        parts = ", ".join(f"{means[name].value:+.2f} {words}" for name, words in _WORDS.items())
        if np.isnan(diff.se):
            return f"{second} is {_better(diff.value)} than {first} for the one datum: {parts}"
        if not diff.se:
            what = _better(diff.value) + f" than {first}, the same for each datum" if diff.value else f"{first} again"
            return f"{second} is {what}: {parts}"
        errors, limit = abs(diff.value) / diff.se, float(stats.t.isf(LEVEL / 2, int(self.whole.sum()) - 1))
        size = f"{errors:.1f} standard errors over data"
        if errors > limit:
            return f"{second} is {_better(diff.value)} than {first}: {parts} ({size})"
        return (
            f"{second} cannot be told from {first}: {diff.value:+.2f} nats, {size}, within the {limit:.1f} of chance "
            f"(95%); {parts}"
        )

    def report(self) -> Report:
        """Return what is printed: the means of all and of its parts, the verdict, what moved most, what is in doubt."""
        (first, second), what = self.names, self.quantity
        headline = (
            f"{what} by {second} minus {what} by {first}, {len(self)} data, in three parts; K = {self.num_samples} "
            f"samples of each guide"
        )
        if not self.whole.any():
            return Report(headline, lines=[self.verdict()])
        means = self.means()
        remarks = {
            "log_px": what,
            "reconstruction": f"E_Q log P({self._scored} | z)",
            "latents": "-KL(Q || P(z))",
            "gap": f"{what} - ELBO",
        }
        rows = [(what if n == "log_px" else n, means[n], f"{words}: {self._levels(n)}") for n, words in remarks.items()]
        return Report(headline, rows, [self.verdict(), *self._without_parts(), self._moved(), *self._on_doubts()])

    @property
    def _scored(self) -> str:
        return self.quantity.removeprefix("log P(").partition(" |")[0].removesuffix(")")

    def _levels(self, name: str) -> str:
        """Say where both are, by a part."""
        before, after = (float(getattr(side, name)[self.whole].mean()) for side in (self.a, self.b))
        return f"{before:.3f} to {after:.3f} nats"

    def _without_parts(self) -> list[str]:
        lacking = int((~self.whole).sum())
        if not lacking:
            return []
        return [
            f"{lacking} data are left out of all means: {self.quantity} or the ELBO of one pair is minus infinity, "
            f"which has no parts."
        ]

    def _moved(self) -> str:
        each = [
            f"{row['datum']} by {row['log_px']:+.2f} (MCSE {row['log_px_mcse']:.2f}), most by {row['part']} "
            f"{row[row['part']]:+.2f}{', in doubt' * row['in_doubt']}"
            for row in self.largest(NAMED).reset_index().to_dict("records")
        ]
        return f"Data that moved most (.largest()): {'; '.join(each)}."

    def _on_doubts(self) -> list[str]:
        lines = [f"{name}: {verdict}" for name, verdict in self.verdicts.items()]
        count = int(self.doubtful.sum())
        if not count:
            return lines
        said = (
            f"{count} of {len(self)} data are in doubt by one pair or both: {self.quantity} is rather too low there, "
            f"and with it the gap; reconstruction and latents are not concerned."
        )
        sure = self.whole & ~self.doubtful
        if not sure.any():
            return [*lines, said]
        means = self.means(sure)
        parts = ", ".join(f"{means[name].value:+.2f} {words}" for name, words in _WORDS.items())
        return [*lines, f"{said} Without them it is {means['log_px'].value:+.2f} nats: {parts}."]


_WORDS = {"reconstruction": "reconstruction", "latents": "latents (KL)", "gap": "gap"}


def _minus(after: Array, before: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return after - before


def _better(value: float) -> str:
    return f"{abs(value):.2f} nats {'better' if value > 0 else 'worse'}"


def difference_of(
    evidence: Sequence[Evidence], terms: Sequence[dict[str, Array]], names: tuple[str, str], num_samples: int
) -> Difference:
    """Return the difference of two estimates in parts, from the terms of both ELBOs (`elbo_terms`).

    Raises:
        InputError: estimates of different data, quantities or kinds, as `compare` refuses them.
    """
    as_groups(dict(zip(names, evidence, strict=True)))
    shift = len({one.scored for one in evidence}) > 1  # a probability beside dequantized levels: both in nats of levels
    a, b = (_split(e, t, e.to_levels if shift else 0.0) for e, t in zip(evidence, terms, strict=True))
    doubtful = np.zeros(len(evidence[0]), dtype=bool)
    doubtful[[doubt.datum for one in evidence for doubt in one.doubts()]] = True
    verdicts = {name: one.verdict() for name, one in zip(names, evidence, strict=True)}
    odd = {n: v for n, v in verdicts.items() if v.startswith(("Cannot be judged", "Not to be believed"))}
    one = evidence[0]
    return Difference(a, b, names, doubtful, odd, num_samples, one.fingerprint, one.quantity)


def _split(evidence: Evidence, terms: dict[str, Array], to_levels: float) -> Split:
    return Split(
        log_px=evidence.log_px + to_levels,
        reconstruction=terms["reconstruction"] + to_levels,
        latents=terms["latents"],
        mcse=evidence.mcse,
        reconstruction_mcse=terms["reconstruction_mcse"],
        latents_mcse=terms["latents_mcse"],
        gap_mcse=np.hypot(evidence.mcse, terms["elbo_mcse"]),  # of other samples
    )


def elbo_terms(
    model: Program,
    guide: Program,
    data: Any,
    options: ImportanceOptions,
    *,
    stream: int,
    name: str,
    against: str | None = None,
) -> dict[str, Array]:
    """Return the two terms of the ELBO of each datum, from K samples of the guide, with their errors, in nats, [N].

    Keys: reconstruction, latents, and reconstruction_mcse, latents_mcse, elbo_mcse.

    Args:
        model, guide, data: as for `estimate_evidence`.
        options: num_samples and how they are drawn; the proposal is the guide.
        stream: which random numbers of the seed, above 0: others than an estimate of log P(x) takes.
        name: what the pair is called in messages.
        against: the fingerprint that the data have to have, of an estimate that was made before.

    Raises:
        InputError: as `estimate_evidence`, or data of another fingerprint.
    """
    parts: list[dict[str, Array]] = []
    preparing = prepared(model, guide, data, proposal="guide", seed=options.seed, joint=options.joint)
    with Threads(options.threads) as threads, preparing as ready, seeded(options.seed, stream):
        if against is not None and fingerprint(ready.source) != against:
            raise InputError(
                f"Expected an estimate of log P(x) on these data for {name!r}; got one on others. Leave evidence out, "
                f"or estimate it on the same data, in the same order."
            )
        sampler = Sampler(ready, options, threads)
        with progress_bar(len(ready.source), f"parts of {name}", "datum", options.progress) as bar:
            for chunk in ready.chunks(sampler.data_at_once):
                drawn = sampler.weighted(chunk, sampler.num_samples)
                assert drawn.log_likelihood is not None
                both = (drawn.log_weights, drawn.log_likelihood)
                weights, likelihood = (t[:, : chunk.num_data].double().cpu().numpy() for t in both)
                parts.append(_terms(weights, likelihood))
                bar.update(chunk.num_data)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _terms(weights: Array, likelihood: Array) -> dict[str, Array]:
    """Return the means over samples of log w = log P(x, z) - log Q(z | x), split at log P(x | z), both [K, n]."""

    def error(values: Array) -> Array:
        count = len(values)
        return values.std(0, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(values.shape[1])

    with np.errstate(invalid="ignore"):  # minus infinity where a draw is ruled out
        latents = weights - likelihood
        return {
            "reconstruction": likelihood.mean(0),
            "latents": latents.mean(0),
            "reconstruction_mcse": error(likelihood),
            "latents_mcse": error(latents),
            "elbo_mcse": error(weights),
        }
