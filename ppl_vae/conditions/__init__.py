"""Conditions P(y): what a conditional model is given, and how its networks read it.

A condition is a part like a prior: a module whose `forward()` returns a distribution, here over one y. It
also says what shape y has, what networks read of it (`encode`), where y and what is to be generated stand in
a datum, how a file holds it (`read`), and how it is drawn beside answers (`picture`).
"""

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.distributions import constraints

from ppl_vae.conditions.images import images_in
from ppl_vae.conditions.masks import mask_of
from ppl_vae.distributions.unwrap import is_improper
from ppl_vae.errors import InputError, positive_int
from ppl_vae.networks import MLP, Shape, Widths
from ppl_vae.utils.memory import BATCH, check_memory


class Condition(nn.Module, ABC):
    """P(y) for y of shape [*shape]: subclasses say their `shape`, and implement `forward()` and `encode(y)`.

    A model binds it to the shape of its data once, `bind(event_shape)`, and to the support of what
    it generates, `support`, which is the support of pixels that are given, too.
    """

    y_from_x = False  # whether y is a part of the datum itself, not something given beside it
    of_pixels = False  # whether the numbers of y are pixels, as those of x
    infer: Any = {"is_condition": True}  # noqa: RUF012  (the mark of the site; see ppl_vae.traces.handlers)
    event_shape = torch.Size()
    support: Any = constraints.real

    def bind(self, event_shape: Shape) -> Self:
        """Say what shape one datum has."""
        self.event_shape = torch.Size(event_shape)
        return self

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """The shape of one y."""

    @property
    def c_shape(self) -> torch.Size:
        """The shape of what networks read of one y."""
        return self.shape

    @property
    def x_shape(self) -> torch.Size:
        """The shape of what is generated given y: the whole datum, unless y is a part of it."""
        return self.event_shape

    def forward(self) -> TorchDistribution:
        """Return P(y), by default flat: of a y that is always given only P(x | y) is modelled."""
        return dist.ImproperUniform(self.support, torch.Size(), self.shape).mask(False)

    def encode(self, y: Tensor) -> Tensor:
        """Return what networks read of y [..., *shape], [..., *c_shape]."""
        return y

    def data_options(self) -> dict[str, Any]:
        """Return options of `ppl_vae.data.load` that give data for this condition."""
        return {}

    def example(self) -> Tensor:
        """Return one y, [1, *shape]: the first there is, or zeros."""
        every = self.every()
        return torch.zeros(1, *self.shape) if every is None else every[:1]

    def split(self, x: Tensor | None, y: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return what is generated and what is given, of x [N, *event_shape] and y [N, *shape], which is checked."""
        self.check(y)
        return x, y

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the whole datum [..., *event_shape] of what was generated and what was given."""
        return x

    def every(self) -> Tensor | None:
        """Return every y there is, or None if they are too many."""
        return None

    @property
    def given_pixels(self) -> Tensor:
        """Which pixels of a datum are given, as a mask that broadcasts to it."""
        return torch.zeros(())

    def picture(self, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what is drawn of y [N, *shape] beside answers, or None for nothing.

        Images [N, images in a row, *event_shape], and a mask of those of their pixels that are given.
        """
        return None

    def read(self, values: Any, file: object) -> Tensor:
        """Return conditions [M, *shape] out of what a file holds, finite numbers [*shape] or [M, *shape]."""
        y = torch.as_tensor(values.astype(np.float32))
        y = y[None] if y.shape == self.shape else y
        if y.shape[1:] != self.shape or not bool(torch.isfinite(y).all()):
            raise InputError(
                f"Expected finite conditions of shape [{', '.join(map(str, ('M', *self.shape)))}] in {file}; got "
                f"{tuple(y.shape)}{'' if y.shape[1:] != self.shape else ' with NaN or infinity'}. Mend the array."
            )
        return y

    def check(self, y: Tensor | None) -> None:
        """Refuse a y that is not of shape [N, *shape], or missing though P(y) is flat."""
        what = f"a condition y of shape [{', '.join(map(str, ('N', *self.shape)))}]"
        if y is None:  # then it is drawn, or summed out
            if is_improper(self()):
                raise InputError(f"Expected {what}; got none. Give the model y.")
            return
        if y.dim() <= len(self.shape) or y.shape[y.dim() - len(self.shape) :] != self.shape:
            raise InputError(f"Expected {what}; got {tuple(y.shape)}. Reshape it.")


class Label(Condition):
    """A class label y in {0, .., num_classes - 1}, P(y) uniform; networks read it one-hot.

    A label that is not known is a latent site like any other; Pyro can enumerate it.

    Args:
        num_classes: how many labels there are.

    >>> Label(10).encode(torch.tensor([7, 0])).argmax(-1)
    tensor([7, 0])
    """

    infer = {"is_condition": True, "enumerate": "parallel"}  # noqa: RUF012
    shape = torch.Size()

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.num_classes = positive_int("num_classes", num_classes)
        check_memory("a batch of labels, one-hot,", BATCH * self.num_classes, "Make num_classes smaller.")
        self.logits = nn.Buffer(torch.zeros(self.num_classes), persistent=False)

    @property
    def c_shape(self) -> torch.Size:
        return torch.Size([self.num_classes])

    def forward(self) -> TorchDistribution:
        return dist.Categorical(logits=self.logits)

    def encode(self, y: Tensor) -> Tensor:
        return (y.unsqueeze(-1) == torch.arange(self.num_classes, device=y.device)).to(self.logits)

    def every(self) -> Tensor:
        return torch.arange(self.num_classes)

    def read(self, values: Any, file: object) -> Tensor:
        """Return labels [M] out of an array of whole numbers, however they are stored."""
        y = torch.as_tensor(np.atleast_1d(values))
        if y.dim() != 1 or bool((y.long() != y).any()):
            raise InputError(
                f"Expected labels in {file}, one whole number each; got an array of dtype {values.dtype} and shape "
                f"{values.shape}. Give a .npy file of labels, or the labels themselves (label).",
                options="--label N",
            )
        return y.long()

    def check(self, y: Tensor | None) -> None:
        if y is None:
            return
        if y.dim() > 1:
            fix = "Pass y.flatten()" if y.shape[1:].numel() == 1 else "If one-hot, pass y.argmax(-1)"
            raise InputError(f"Expected labels y as numbers, [N]; got {tuple(y.shape)}. {fix}.")
        if y.is_floating_point() and bool((y != y.round()).any()):  # of NaN, too
            raise InputError(
                f"Expected labels y as whole numbers; got {float(y[y != y.round()][0]):.3g}. Write -1 for a label that "
                f"is not known; what is no class needs another condition than Label."
            )
        if y.is_floating_point() or y.dtype == torch.bool:
            raise InputError(
                f"Expected labels y as whole numbers; got {y.dtype}. Store integers (y.long()), with -1 for NaN."
            )
        # Run by hand; what fits, estimates or samples looks at all labels once, before it starts.
        if not am_i_wrapped() and bool(((y < 0) | (y >= self.num_classes)).any()):
            from_one = y.min() == 1 and y.max() == self.num_classes
            fix = "They count from 0: subtract 1 (y - 1)" if from_one else "Mend them, or raise num_classes"
            raise InputError(
                f"Expected labels y from 0 to {self.num_classes - 1}; got values from {y.min()} to {y.max()}. {fix}."
            )


class Visible(Condition):
    """Some pixels of the image itself, y = x[visible]; what is generated are the others, x[hidden].

    Args:
        visible: which pixels are given: "middle_column", "quadrant" (the lower left), or an array of zeros and
            ones with the shape of an image, [H, W] or [*event_shape], or a .npy file with one.

    Raises:
        InputError: a mask of another shape, or one that hides everything or nothing.

    Source: section 4 of Doersch, arXiv 1606.05908; the quadrant of Sohn et al., NeurIPS 2015.

    >>> condition = Visible("middle_column").bind((1, 28, 28))
    >>> condition.shape, condition.x_shape
    (torch.Size([28]), torch.Size([756]))
    """

    y_from_x = of_pixels = True

    def __init__(self, visible: Any = "middle_column") -> None:
        super().__init__()
        self.visible = visible

    def bind(self, event_shape: Shape) -> Self:
        super().bind(event_shape)
        mask = mask_of(self.visible, self.event_shape)
        given, hidden = mask.flatten().nonzero().flatten(), (~mask).flatten().nonzero().flatten()
        if not len(given) or not len(hidden):
            raise InputError(
                f"Expected a mask with visible and with hidden pixels; got one that shows {len(given)} of "
                f"{mask.numel()}. Mark visible pixels with 1, hidden ones with 0."
            )
        self.mask = nn.Buffer(mask, persistent=False)
        self.visible_index = nn.Buffer(given, persistent=False)
        self.hidden_index = nn.Buffer(hidden, persistent=False)
        self.order = nn.Buffer(torch.cat([given, hidden]).argsort(), persistent=False)
        return self

    @property
    def shape(self) -> torch.Size:
        return self.visible_index.shape

    @property
    def x_shape(self) -> torch.Size:
        return self.hidden_index.shape

    @property
    def given_pixels(self) -> Tensor:
        return self.mask

    def picture(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visible pixels of images y, with the hidden ones in grey."""
        return torch.where(self.mask, y, 0.5)[:, None], self.mask

    def read(self, values: Any, file: object) -> Tensor:
        """Return images to be completed, [M, *event_shape], out of one or several; hidden pixels may be anything."""
        return images_in(values, self.event_shape, self.support, file, given=self.mask)

    def data_options(self) -> dict[str, Any]:
        """Return that images are binarized by a uniform threshold, drawn anew each step, as in the tutorial."""
        return {"binarize": "random_threshold"}

    def split(self, x: Tensor | None, y: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Return the hidden and the visible pixels of images x; without x the visible ones of images y.

        x and y are whole images, [N, *event_shape]; of y only the visible pixels are read.
        """
        if x is not None and y is not None:
            raise InputError("Expected x, or y to complete; got both. Pass whole images x alone: y is a part of them.")
        images = y if x is None else x
        if images is None or images.dim() < 1 or images.shape[1:] != self.event_shape:
            what = f"whole images [{', '.join(map(str, ('N', *self.event_shape)))}], of which visible pixels are read"
            got = "none" if images is None else str(tuple(images.shape))
            raise InputError(f"Expected the condition y as {what}; got {got}. Reshape it.")
        flat = images.flatten(-len(self.event_shape))
        return None if x is None else flat[..., self.hidden_index], flat[..., self.visible_index]

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Return whole images [..., *event_shape] of hidden pixels x and visible ones y."""
        whole = torch.cat([y.expand(*x.shape[:-1], -1), x], dim=-1)[..., self.order]
        return whole.reshape(x.shape[:-1] + self.event_shape)


class DigitString(Condition):
    """A string of images, y_1, .., y_length; the datum is the image of the digit that succeeds it.

    One small network reads each image, whatever its place; other networks are given what it made of them.

    Args:
        length: how many images.
        num_features: what is read of one image.
        hidden: the widths of the network that reads it.

    >>> condition = DigitString(3).bind((1, 28, 28))
    >>> condition.shape, condition.c_shape
    (torch.Size([3, 1, 28, 28]), torch.Size([3, 32]))
    """

    of_pixels = True

    def __init__(self, length: int = 3, num_features: int = 32, hidden: Widths = (256,)) -> None:
        super().__init__()
        self.length, self.num_features = positive_int("length", length), positive_int("num_features", num_features)
        self.hidden = hidden

    def bind(self, event_shape: Shape) -> Self:
        """Make the network that reads one image, once."""
        if hasattr(self, "reader"):
            raise InputError("Expected a DigitString of its own for each model; got one in use. Make another.")
        super().bind(event_shape)
        self.reader = MLP(event_shape, (self.num_features,), hidden=self.hidden)
        return self

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.length, *self.event_shape])

    @property
    def c_shape(self) -> torch.Size:
        return torch.Size([self.length, self.num_features])

    def encode(self, y: Tensor) -> Tensor:
        return self.reader(y)

    def picture(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, torch.ones(())

    def read(self, values: Any, file: object) -> Tensor:
        """Return strings [M, *shape] out of their images, one after the other or beside each other."""
        return images_in(values, self.event_shape, self.support, file, length=self.length)

    def data_options(self) -> dict[str, Any]:
        return {"strings": self.length}
