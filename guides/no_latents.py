"""The guide of a model without latent sites, or with all of them summed out: the ELBO is log P(x)."""

from torch import Tensor

from ppl_vae.base import Guide, Model


class NoLatents(Guide):
    """Q over no latent site at all, for `models/regressor.py`, and for `models/discrete.py` summed out exactly.

    >>> import torch
    >>> from ppl_vae.models import Regressor
    >>> NoLatents(Regressor((1, 8, 8)))(torch.zeros(5, 1, 8, 8))
    {}
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        left = [name for name in self.latents if name not in self.enumerable]
        if left:
            expected = "a model without latent sites, or whose latent sites can all be summed out,"
            self.refuse(model, expected, f"{type(model).__name__}, which has {', '.join(left)}")
        self.default_objective = "trace_enum_elbo" if self.latents else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Sample nothing."""
        return {}
