"""Mixtures of multivariate Student-t distributions, one for each of many data; tensors only.

    q(u) = sum_j pi_j t(u; m_j, C_j, nu),    C_j = S (I + V_j (R_j^2 - I) V_j^T) S

with S diagonal, the same for all components, and V_j orthonormal: all D directions of it, or the few in which C_j is
not S^2. The tails of a t are heavier than those of a Gaussian, which keeps weights P / q bounded where P is a little
wider than was found. nu grows with D, as the share of log q that its tail costs does.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LEAST_DEGREES = 2.0  # nu is D, and no less than this


def degrees(size: int) -> float:
    """Return nu for so many dimensions.

    >>> degrees(1), degrees(40)
    (2.0, 40.0)
    """
    return max(LEAST_DEGREES, float(size))


@dataclass(frozen=True)
class Students:
    """Mixtures of J components for N data in D dimensions; components that a datum does not have weigh nothing."""

    log_shares: Tensor  # log pi_j, [J, N]
    means: Tensor  # m_j, [J, N, D]
    scale: Tensor  # the diagonal of S, [N, D]
    directions: Tensor  # V_j, [J, N, D, R]
    roots: Tensor  # the diagonal of R_j, [J, N, R]
    nu: float

    @property
    def num_components(self) -> int:
        """J."""
        return len(self.means)

    def select(self, index: Tensor) -> "Students":
        """Return those of some of the data."""
        return Students(
            self.log_shares[:, index],
            self.means[:, index],
            self.scale[index],
            self.directions[:, index],
            self.roots[:, index],
            self.nu,
        )

    @staticmethod
    def concatenated(parts: "list[Students]") -> "Students":
        """Return those of several groups of data as one."""
        most = max(part.num_components for part in parts)
        padded = [part._padded(most) for part in parts]
        return Students(
            torch.cat([p.log_shares for p in padded], 1),
            torch.cat([p.means for p in padded], 1),
            torch.cat([p.scale for p in padded]),
            torch.cat([p.directions for p in padded], 1),
            torch.cat([p.roots for p in padded], 1),
            padded[0].nu,
        )

    def _padded(self, num_components: int) -> "Students":
        extra = num_components - self.num_components
        if not extra:
            return self

        def more(value: Tensor) -> Tensor:
            return torch.cat([value, value[:1].expand(extra, *value.shape[1:])])

        absent = torch.full_like(self.log_shares[:1], -math.inf).expand(extra, -1)
        return replace(
            self,
            log_shares=torch.cat([self.log_shares, absent]),
            means=more(self.means),
            directions=more(self.directions),
            roots=more(self.roots),
        )

    def with_component(self, mean: Tensor, directions: Tensor, roots: Tensor) -> "Students":
        """Return them with one more component of each datum, of the average share of those that it has."""
        count = self.log_shares.isfinite().sum(0).to(self.scale.dtype)
        share = torch.cat([self.log_shares + (count / (count + 1)).log(), -(count + 1).log()[None]])
        return replace(
            self,
            log_shares=share,
            means=torch.cat([self.means, mean[None]]),
            directions=torch.cat([self.directions, directions[None]]),
            roots=torch.cat([self.roots, roots[None]]),
        )

    def draw(self, num_samples: int) -> Tensor:
        """Draw u for each datum, [K, N, D]; of each component its share of the K, up to one, in random order.

        The numbers of each component are those of one random offset, so that every u has density q.
        """
        size, num_data = self.scale.shape[1], self.scale.shape[0]
        at = (
            torch.arange(num_samples, device=self.scale.device)[:, None] + torch.rand_like(self.scale[:, 0])
        ) / num_samples
        ends = self.log_shares.exp().cumsum(0)
        component = (at[None] > (ends / ends[-1:])[:, None]).sum(0).clamp(max=self.num_components - 1)  # [K, N]
        component = component[torch.randperm(num_samples, device=component.device)]
        noise = torch.randn(num_samples, num_data, size, dtype=self.scale.dtype, device=self.scale.device)
        gamma = torch.distributions.Chi2(torch.tensor(self.nu, dtype=self.scale.dtype, device=self.scale.device))
        noise = noise / (gamma.sample((num_samples, num_data)) / self.nu).sqrt()[..., None]
        u = torch.zeros_like(noise)
        for j in range(self.num_components):
            rows = self._having(j)
            drawn = self.means[j, rows] + self.scale[rows] * self._stretched_noise(noise[:, rows], j, rows)
            u[:, rows] = torch.where((component[:, rows] == j)[..., None], drawn, u[:, rows])
        return u

    def _having(self, component: int) -> Tensor:
        """Return which data have a component, [n]."""
        return self.log_shares[component].isfinite().nonzero()[:, 0]

    def _stretched_noise(self, noise: Tensor, component: int, rows: Tensor) -> Tensor:
        """Return draws of covariance I + V (R^2 - I) V^T from isotropic noise [K, n, D]."""
        directions, roots = self.directions[component, rows], self.roots[component, rows]
        if roots.shape[-1] < noise.shape[-1]:
            return _stretched(noise, directions, roots - 1)
        return ((noise.transpose(0, 1) * roots[:, None]) @ directions.mT).transpose(0, 1)

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log q(u), [K, N], for u [K, N, D]."""
        return torch.logsumexp(self.log_parts(u), 0)

    def log_parts(self, u: Tensor) -> Tensor:
        """Return log pi_j + log t_j(u), [J, K, N]."""
        size, nu = u.shape[-1], self.nu
        constant = math.lgamma((nu + size) / 2) - math.lgamma(nu / 2) - size / 2 * math.log(nu * math.pi)
        dtype = torch.promote_types(u.dtype, self.scale.dtype)
        parts = torch.full((self.num_components, *u.shape[:2]), -math.inf, dtype=dtype, device=u.device)
        for j in range(self.num_components):
            rows = self._having(j)
            distance = self.distances(u[:, rows], j, rows)
            volume = self.scale[rows].log().sum(-1) + self.roots[j, rows].log().sum(-1)
            log_t = constant - volume - (nu + size) / 2 * torch.log1p(distance / nu)
            parts[j, :, rows] = self.log_shares[j, rows] + log_t
        return parts

    def distances(self, u: Tensor, component: int, rows: Tensor) -> Tensor:
        """Return (u - m)^T C^-1 (u - m) of a component for u [K, n, D] of these data, [K, n]."""
        apart = (u - self.means[component, rows]) / self.scale[rows]
        along = (apart.transpose(0, 1) @ self.directions[component, rows]).transpose(0, 1)
        return (apart**2).sum(-1) + ((self.roots[component, rows] ** -2 - 1) * along**2).sum(-1)

    def whiten(self, u: Tensor) -> Tensor:
        """Return (I + V (R^-1 - I) V^T) S^-1 (u - m), [K, N, D], of the largest component of each datum."""
        mean, directions, roots = self._largest()
        return _stretched((u - mean) / self.scale, directions, 1 / roots - 1)

    def unwhiten(self, v: Tensor) -> Tensor:
        """Return u = m + S (I + V (R - I) V^T) v, the opposite of `whiten`."""
        mean, directions, roots = self._largest()
        return mean + self.scale * _stretched(v, directions, roots - 1)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient with respect to v of `unwhiten`, for the largest component, of one with respect to u."""
        _, directions, roots = self._largest()
        return _stretched(gradient * self.scale, directions, roots - 1)

    def _largest(self) -> tuple[Tensor, Tensor, Tensor]:
        largest, data = self.log_shares.argmax(0), torch.arange(len(self.scale), device=self.scale.device)
        return self.means[largest, data], self.directions[largest, data], self.roots[largest, data]


def _stretched(v: Tensor, directions: Tensor, stretch: Tensor) -> Tensor:
    """Return (I + V diag(stretch) V^T) v for v [K, N, D], V [N, D, R]."""
    by_datum = v.transpose(0, 1)  # [N, K, D]
    along = by_datum @ directions * stretch[:, None]
    return (by_datum + along @ directions.mT).transpose(0, 1)
