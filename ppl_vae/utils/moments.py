"""The mean and the spread of data, feature by feature: what starts and unit scales are made of."""

import torch
from torch import Tensor

SMALLEST = 1e-6  # of a spread beside the mean: what varies less is constant, up to rounding


def feature_shape(event_shape: torch.Size) -> torch.Size:
    """Return the shape of one number for each feature, which broadcasts to a datum.

    Features are the columns of a vector [D], the channels of an image [C, H, W], what a step of a series [T, D] has.

    >>> feature_shape(torch.Size([5])), feature_shape(torch.Size([3, 8, 8])), feature_shape(torch.Size([100, 2]))
    (torch.Size([5]), torch.Size([3, 1, 1]), torch.Size([1, 2]))
    """
    if len(event_shape) == 2:
        return torch.Size([1, event_shape[1]])
    return torch.Size([*event_shape[:1], *[1] * len(event_shape[1:])])


def mean_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each feature of x [N, *event_shape], NaN left out, [*feature_shape].

    A feature without a value has the mean 0; one that does not vary, the spread of the others (1 where none does).

    >>> mean_and_scale(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    (tensor([2., 5.]), tensor([1., 1.]))
    """
    shape = feature_shape(x.shape[1:])
    dims = [0, *(i + 1 for i, size in enumerate(shape) if size != x.shape[i + 1])]
    known = ~x.isnan()
    values = torch.where(known, x, 0.0).double()
    count = known.sum(dims).clamp(min=1)
    mean = (values.sum(dims) / count).reshape(shape)
    square = torch.where(known, values - mean, 0.0).square().sum(dims) / count
    scale = square.sqrt().reshape(shape)
    varies = scale > SMALLEST * mean.abs()
    usual = scale[varies].log().mean().exp() if bool(varies.any()) else scale.new_ones(())
    return mean.to(x.dtype), torch.where(varies, scale, usual).to(x.dtype)
