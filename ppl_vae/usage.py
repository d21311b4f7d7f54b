"""The result of asking what the latents are used for: numbers, text and HTML."""

import html
from dataclasses import dataclass

import numpy as np

from ppl_vae.report import Array, number

ACTIVE = 0.01  # a unit is active if Var_x(E_Q[z_d]) is above it: Burda et al., arXiv 1509.00519
NEAR_BOUND = 0.75  # of log N: from there on the mixture of N posteriors no longer stands for Q(z)
COLLAPSED = 0.01  # nats: a site whose KL is below it says nothing about x


@dataclass(frozen=True, eq=False)
class SiteUse:
    """What one latent site is used for.

    Attributes:
        kl: E_x KL(Q(z_d | x) || P(z_d)) in nats for each dimension, [D]; or one number, [1], for the site as a
            whole where Q or P(z) does not factorize over dimensions. In a hierarchy: given the sites before.
        kl_mcse: Monte Carlo standard error of its sum.
        per_dimension: whether kl is for each dimension.
        variance: Var_x(E_Q[z_d]) for each dimension, [D], less what drawing K samples adds to it.
    """

    kl: Array
    kl_mcse: float
    per_dimension: bool
    variance: Array

    @property
    def active(self) -> int:
        """How many dimensions move with x: Var_x(E_Q[z_d]) > 0.01."""
        return int((self.variance > ACTIVE).sum())

    @property
    def collapsed(self) -> bool:
        """Whether the site says nothing about x."""
        return float(self.kl.sum()) < COLLAPSED + 2 * self.kl_mcse and self.active == 0


@dataclass(frozen=True, eq=False, repr=False)
class LatentUse:
    """What the latents of a pair are used for, on N data; in nats.

    Attributes:
        sites: for each latent site, its KL, per dimension where that can be had, and its active units.
        kl: E_x KL(Q(z | x) || P(z)) of all sites together.
        kl_mcse: its Monte Carlo standard error.
        marginal_kl: KL(Q(z) || P(z)), with Q(z) the mean of Q(z | x) over these data.
        marginal_kl_mcse: its Monte Carlo standard error.
        num_data: N.
        num_samples: K, how many z were drawn for each datum.
        seed: of the samples.
    """

    sites: dict[str, SiteUse]
    kl: float
    kl_mcse: float
    marginal_kl: float
    marginal_kl_mcse: float
    num_data: int
    num_samples: int
    seed: int

    @property
    def mutual_information(self) -> float:
        """I(x; z) = E_x KL(Q(z | x) || P(z)) - KL(Q(z) || P(z)), at most log N."""
        return self.kl - self.marginal_kl

    @property
    def bound(self) -> float:
        """Log N: N data can be told apart by log N nats, and no more information than that is ever seen."""
        return float(np.log(self.num_data))

    def verdict(self) -> str:
        """Return one line on collapse, or on how many units are active."""
        total, active = sum(len(s.variance) for s in self.sites.values()), sum(s.active for s in self.sites.values())
        collapsed = [name for name, site in self.sites.items() if site.collapsed]
        if collapsed:
            return (
                f"Posterior collapse: {', '.join(collapsed)} says nothing about x (KL below {COLLAPSED} nats, no "
                f"active unit). Weaken the decoder, or raise the weight of the KL slowly while training."
            )
        return f"{active} of {total} units are active: Var_x(E_Q[z_d]) > {ACTIVE}."

    def _headline(self) -> str:
        return f"Latents on {self.num_data} data, K = {self.num_samples} samples each, in nats"

    def _site_rows(self) -> list[tuple[str, str, str, str]]:
        return [
            (
                name,
                f"{site.kl.sum():.3f}",
                f"{site.active} of {len(site.variance)}",
                " ".join(f"{v:.2f}" for v in np.sort(site.kl)[::-1][:12]) + " ..." * (len(site.kl) > 12)
                if site.per_dimension
                else "as a whole: Q or P(z) does not factorize over dimensions",
            )
            for name, site in self.sites.items()
        ]

    def _total_rows(self) -> list[tuple[str, str, str, str]]:
        information_mcse = float(np.hypot(self.kl_mcse, self.marginal_kl_mcse))
        near = self.mutual_information > NEAR_BOUND * self.bound
        note = f"of at most log N = {self.bound:.2f}" + (": near it, so only a lower bound; take more data" * near)
        return [
            ("KL", f"{self.kl:.3f}", number(self.kl_mcse), "E_x KL(Q(z | x) || P(z)), the sum of the next two"),
            ("I(x; z)", f"{self.mutual_information:.3f}", number(information_mcse), note),
            ("KL(Q(z) || P(z))", f"{self.marginal_kl:.3f}", number(self.marginal_kl_mcse), "aggregated posterior"),
        ]

    def __str__(self) -> str:
        width = max(16, *map(len, self.sites))
        lines = [
            self._headline(),
            "",
            f"{'site':<{width}}{'KL':>10}{'active':>12}  KL of each dimension, largest first",
        ]
        lines += [f"{a:<{width}}{b:>10}{c:>12}  {d}" for a, b, c, d in self._site_rows()]
        lines += ["", f"{'all sites':<{width}}{'mean':>10}{'MCSE':>12}"]
        lines += [f"{a:<{width}}{b:>10}{c:>12}  {d}" for a, b, c, d in self._total_rows()]
        return "\n".join([*lines, "", self.verdict()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def table(header: tuple[str, ...], rows: list[tuple[str, str, str, str]]) -> str:
            cells = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
            return "<table><tr>" + "".join(f"<th>{h}</th>" for h in header) + f"</tr>{cells}</table>"

        return (
            f"<p>{html.escape(self._headline())}</p>"
            + table(("site", "KL", "active", "KL of each dimension, largest first"), self._site_rows())
            + table(("all sites", "mean", "MCSE", ""), self._total_rows())
            + f"<p>{html.escape(self.verdict())}</p>"
        )
