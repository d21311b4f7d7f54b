"""The result of estimating log P(x): numbers per datum, and what they say in all, by the rules of their method.

    log P(x) - ELBO = KL(Q(z | x) || P(z | x)) >= 0

so the gap between the two columns is how far the guide is from the posterior.
"""

from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ppl_vae.errors import InputError
from ppl_vae.evidence.diagnostics import LOW_ESS
from ppl_vae.evidence.interval import Interval
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.evidence.rules import DIAGNOSTICS, Diagnostics, at_edges, of_exact
from ppl_vae.evidence.scale import DENSITY, DEQUANTIZED, GIVEN, PROBABILITY, TRANSFORMED
from ppl_vae.evidence.to_arviz import container, elpd
from ppl_vae.utils.report import Mean, Report, Reported, counted

NEGLIGIBLE = 0.01  # nats
FEW, SMALL = 0.25, 0.05  # the mean stands with at most so many doubtful data (a share), off by so little (nats)


class Doubt(NamedTuple):
    """A datum whose log P(x) is not to be trusted, and the reason in words."""

    datum: int
    reason: str


class Evidence(Reported, Numbers):
    """Estimates of log P(x) for N data, the attributes of `Numbers`, and whether to believe them; print it."""

    def doubts(self) -> list[Doubt]:
        """Return the data whose log P(x) is not to be trusted, each with every reason there is, in words.

        Reasons: Pareto's k-hat above min(1 - 1 / log10 K, 0.7), an effective sample size below 10, a tolerance
        that was not reached, a posterior at the edge of its support, where numbers are coarse; of annealing, chains
        whose weights differ, a low accepted rate of HMC, or an importance estimate that lies above; of filters, that
        they are apart, or a step with fewer than ten particles that count; by "auto" also work that was not done, modes
        that nobody could look for, and a posterior narrower than numbers can say.
        """
        rules = self._diagnostics().rules
        reasons = ("; ".join(rule.words(n) for rule in rules if rule.breaks[n]) for n in range(len(self)))
        return [Doubt(datum, why) for datum, why in enumerate(reasons) if why]

    def verdict(self) -> str:
        """Return one line on whether the mean log P(x) can be believed."""
        diagnostics = self._diagnostics()
        if diagnostics.too_few:
            return f"Cannot be judged: {diagnostics.too_few}"
        if diagnostics.refuted:
            return f"Not to be believed: {diagnostics.refuted} {diagnostics.remedy}"
        doubtful, too_low = [doubt.datum for doubt in self.doubts()], self._too_low(diagnostics.bias.total)
        if not doubtful and self.is_exact:
            return "Exact: nothing is estimated."
        if not doubtful:
            side = "high" if diagnostics.bias.total > 0 else "low"
            but = f", but for lack of samples their mean is too {side} by about {too_low:.2f} nats" if too_low else ""
            if diagnostics.unseen > NEGLIGIBLE:
                but += f", but modes that no climb found may make their mean higher by {diagnostics.unseen:.2f} nats"
            return f"To be believed: nothing speaks against any of the {len(self)} data{but}.{diagnostics.blind_spot}"
        counts = Counter({rule.short: int(rule.breaks.sum()) for rule in diagnostics.rules if rule.breaks.any()})
        why = counted(dict(counts.most_common()), len(self))
        off = self._may_be_off(doubtful) + too_low + diagnostics.unseen
        stands = len(doubtful) <= FEW * len(self) and off <= SMALL
        off_by = "may be too low or too high" if diagnostics.two_sided else "is more likely too low"
        start = f"To be believed as a mean, to about {max(off, 0.01):.2f} nats" if stands else "Not to be believed"
        return (
            f"{start}: {why}; {self.quantity} {off_by}. They are listed by .doubts(). "
            f"{diagnostics.remedy}{diagnostics.blind_spot}"
        )

    @property
    def is_believed(self) -> bool:
        """Whether the verdict is that the mean log P(x) can be believed."""
        return self.verdict().startswith(("To be believed", "Exact"))

    def interval(self, level: float = 0.95) -> Interval:
        """Return where the mean log P(x) lies, for the population of the data and for these data, and why; print it.

            L - b -+ t se  (population),    L - b -+ z MCSE  (these data),    se^2 = var_n(L_n) / N

        Args:
            level: how often such an interval is to hold log P(x), between 0 and 1.

        Returns:
            `Interval`: low, high, low_of_data, high_of_data, and each part: sampling of the data, Monte Carlo, bias of
            a finite K and of data that went on, and how far data in doubt and modes that were not found could raise
            the mean; in nats.

        Raises:
            InputError: a level that is not between 0 and 1.

        >>> import ppl_vae
        >>> from ppl_vae.guides import LinearGaussian as Posterior
        >>> from ppl_vae.models import LinearGaussian
        >>> model = LinearGaussian((20,), latent_dim=4)
        >>> x = model(size=64).detach()
        >>> interval = ppl_vae.estimate_evidence(model, Posterior(model), x).interval(0.9)
        >>> interval.low < model.exact_log_px(x).mean().item() < interval.high
        True
        """
        if not 0 < level < 1:
            raise InputError(f"Expected a level between 0 and 1; got {level!r}. Use 0.95, say.")
        mean, doubtful = self.means()["log_px"], [doubt.datum for doubt in self.doubts()]
        exact, bias = self.is_exact, self._diagnostics().bias
        return Interval.of(
            level,
            mean=mean.value,
            se=mean.se,
            mcse=0.0 if exact else self._mcse_of_corrected(),
            bias=0.0 if exact else bias.of_finite_k,
            went_on=0.0 if exact else bias.of_going_on,
            doubtful=self._may_be_off(doubtful) if doubtful else 0.0,
            two_sided=self._diagnostics().two_sided,
            unseen=self._diagnostics().unseen,
            num_doubtful=len(doubtful),
            num_data=len(self),
            quantity=self.quantity,
        )

    def _mcse_of_corrected(self) -> float:
        """Return the error of the mean less its bias: where going on moved it, that of the answers before, too."""
        stopping, first = (self.diagnostics.get(name, np.zeros(1)) for name in ("stopping", "mcse_first"))
        return Mean.of(self.log_px, np.where((stopping != 0) & (first > 0), first, self.mcse)).mcse

    def _too_low(self, bias: float) -> float:
        """Return how far the mean is off for lack of samples, where that is no small part of its error, in nats."""
        return abs(bias) if abs(bias) > max(NEGLIGIBLE, 2 * self._mcse_of_corrected()) else 0.0

    def _diagnostics(self) -> Diagnostics:
        found = of_exact(self) if self.is_exact else DIAGNOSTICS[self.method](self)
        edges = at_edges(self)
        either = found.two_sided or any(rule.breaks.any() for rule in edges)
        return replace(found, rules=[*found.rules, *edges], two_sided=either)

    def _may_be_off(self, doubtful: list[int]) -> float:
        """Return how much they may move the mean: by their errors, biases, what smoothing would change, or rules know.

        Where a handful of draws is all there is these say little: it may be as much as the estimate is above the ELBO.
        """
        handful = (self.ess < LOW_ESS) & ~np.isnan(self.elbo)
        with np.errstate(invalid="ignore"):  # both may be minus infinity
            smoothing = self.diagnostics.get("log_px_psis", self.log_px) - self.log_px
            above = np.where(handful, np.maximum(self.log_px - self.elbo, 0.0), 0.0)
        known = [np.where(rule.breaks, rule.off, 0.0) for rule in self._diagnostics().rules]
        signs = np.abs(np.stack([self.mcse, self.diagnostics["bias"], smoothing, above, *known]))
        return float(np.nan_to_num(signs, nan=np.inf, posinf=np.inf).max(0)[doubtful].sum() / len(self))

    def report(self) -> Report:
        """Return what is printed: means with their errors, diagnostics, and the verdict."""
        means, diagnostics, what = self.means(), self._diagnostics(), self.quantity
        of = "P(z)" if self.elbo_proposal == "prior" else "Q"
        bounds = [
            ("ELBO", means["elbo"], f"nats, {what} >= ELBO"),
            ("gap", means["gap"], f"nats, KL({of} || P(z | {self.observed})) = {what} - ELBO"),
        ]
        rows = [
            (what, means["log_px"], "nats" + self._given_in_words()),
            *([] if self.is_exact or np.isnan(self.elbo).all() else bounds),
            *([("bits per dim", means["bits_per_dim"], self._bits_in_words())] if "bits_per_dim" in means else []),
            *diagnostics.rows,
        ]
        lines = [*diagnostics.lines, *self._of_infinite(of), *self._interval_in_words(), self._noted(self.verdict())]
        return Report(diagnostics.headline, rows, lines)

    def _interval_in_words(self) -> list[str]:
        if not np.isfinite(self.log_px).all() or len(self) == 1 or self.num_samples == 1:
            return []
        found = self.interval()
        alone = "" if self.is_exact else f"; of these data alone [{found.low_of_data:.3f}, {found.high_of_data:.3f}]"
        return [f"95% interval of {self.quantity}: {found.in_words()}{alone}; .interval() says what is in it"]

    def _noted(self, verdict: str) -> str:
        return f"{verdict} Only samples of the proposal, as {self.note}." if self.note else verdict

    def _given_in_words(self) -> str:
        given = ", log P(x | n): the total n of each datum is given, not scored"
        return given if self.scored.endswith(GIVEN) else ""

    def _of_infinite(self, of: str) -> list[str]:
        """Say which numbers are minus infinity, as then their mean is."""
        none, never = np.isneginf(self.log_px), int(np.isneginf(self.elbo).sum())
        others = self.log_px[~none]
        of_others = f"; of the other {len(others)} the mean is {others.mean():.3f}" if len(others) else ""
        nothing = f"is minus infinity: no draw has a weight above zero{of_others}"
        without = f"{self.quantity} of {int(none.sum())} data {nothing}"
        ruled_out = f"the ELBO of {never} data is minus infinity: draws of {of} that the model rules out"
        return [*([without] if none.any() else []), *([ruled_out] if never else [])]

    def _bits_in_words(self) -> str:
        formula, levels = f"-{self.quantity} / ({self.event_size:.4g} ln 2)", self.num_levels
        if self.scored == DEQUANTIZED:
            return f"{formula} + log2 {levels}, of dequantized x: an upper bound on the bits of its {levels} levels"
        if self.scored == DENSITY:
            return f"{formula}, of a density{f' of {levels} levels: not comparable' if levels else ''}"
        if self.scored == TRANSFORMED:
            return f"{formula}, of a density of other numbers than the data: in their unit"
        if self.scored == PROBABILITY and levels:
            return f"{formula}, of the probability of {levels} levels"
        return formula

    def to_arviz(self) -> Any:
        """Return ArviZ's container: `InferenceData` up to 0.23, `xarray.DataTree` from 1.0.

        Groups, with `draws`:
            posterior: the latent sites [chain = 1, draw, datum, ...], drawn by importance resampling.
            log_likelihood: log P(x | z) of those draws in nats [chain, draw, datum], by the observed site's name; of
                several observed sites the sum, as NAME_and_NAME.
            observed_data: the observed sites [datum, ...].
            importance: log_weights of the samples of the proposal that were resampled, in nats [sample, datum].
        Without `draws` instead of all these:
            log_likelihood: log P(x) itself, as `log_px`, one chain of one draw.
        Always:
            evidence: `to_dataset`: log_px, elbo, mcse, ess, khat and more [datum].

        The dimensions of a site SITE that are its own are SITE_dim_0, SITE_dim_1 and so on; `datum` counts from 0. A
        site with a slash in its name, or the name of a dimension, gets a point for it, or an underscore at its end.

        `arviz.loo` of the container is not log P(x): it averages 1 / P(x | z), the harmonic mean, over the posterior's
        draws, which is too high by nats. For `arviz.compare` take `to_elpd`.
        """
        return container(self, len(self.doubts()))

    def to_elpd(self) -> Any:
        """Return log P(x) and k-hat per datum as ArviZ's `ELPDData`, for `arviz.compare` and `arviz.plot_khat`.

            elpd = sum_n log P(x_n),    se = sqrt(N var_n log P(x_n))

        With z integrated out, log P(x_n) does not depend on the other data: it is its own leave-one-out prediction, so
        ArviZ's name for it is kept, `elpd_loo`. The number of parameters, `p_loo`, is not known: NaN.

        Source: the sums of `arviz.loo`; Vehtari et al., arXiv 1507.04544.
        """
        return elpd(self, len(self.doubts()))
