"""The result of estimating log P(x): numbers per datum, and what they say in all.

    log P(x) - ELBO = KL(Q(z | x) || P(z | x)) >= 0

so the gap between the two columns is how far the guide is from the posterior.
"""

from typing import Any

from ppl_vae.evidence import reliability, summary
from ppl_vae.evidence.numbers import Numbers
from ppl_vae.evidence.to_arviz import container, elpd
from ppl_vae.utils.report import Report, Reported


class Evidence(Reported, Numbers):
    """Estimates of log P(x) for N data, each with its error and whether to believe it; print it.

    The numbers are the attributes of `Numbers`: log_px, elbo, mcse, ess and gap per datum, [N], in nats, and how they
    were made.
    """

    def doubts(self) -> list[reliability.Doubt]:
        """Return the data whose log P(x) is not to be trusted, each with the reason in words.

        Reasons: Pareto's k-hat above min(1 - 1 / log10 K, 0.7), an effective sample size below 10, a tolerance
        that was not reached; of annealing, chains whose weights differ, a low accepted rate of HMC, or an
        importance estimate that lies above.
        """
        return reliability.doubts(self)

    def verdict(self) -> str:
        """Return one line on whether the mean log P(x) can be believed."""
        return reliability.verdict(self)

    def report(self) -> Report:
        """Return what is printed: means with their errors, diagnostics, and the verdict."""
        return summary.report(self, self.verdict())

    def to_arviz(self) -> Any:
        """Return ArviZ's container: `InferenceData` up to 0.23, `xarray.DataTree` from 1.0.

        Groups: evidence (`to_dataset`), and with `draws` posterior, log_likelihood (log P(x | z)), observed_data
        and importance (the log-weights); without, log_likelihood is log P(x) itself, as one draw. For `arviz.compare`
        take `to_elpd`: `arviz.loo` of a container is a harmonic mean.
        """
        return container(self)

    def to_elpd(self) -> Any:
        """Return log P(x) and k-hat per datum as ArviZ's `ELPDData`, for `arviz.compare` and `arviz.plot_khat`."""
        return elpd(self)
