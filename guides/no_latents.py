"""The guide of a model without latent sites: there is nothing to infer, and the ELBO is log P(x)."""

from torch import Tensor

from ppl_vae.base import Guide, Model
from ppl_vae.errors import InputError


class NoLatents(Guide):
    """Q over no latent site at all, for `models/regressor.py`.

    >>> import torch
    >>> from ppl_vae.models import Regressor
    >>> NoLatents(Regressor((1, 8, 8)))(torch.zeros(5, 1, 8, 8))
    {}
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        if self.latents:
            raise InputError(
                f"Expected a model without latent sites; got {type(model).__name__}, which has "
                f"{', '.join(self.latents)}. Use another guide, for instance {model.default_guide}."
            )

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Sample nothing."""
        return {}
