"""Parameters that still move when a fit ends: it was too short for them, however flat the ELBO looks.

A step of Adam's moves a number by the learning rate at most. One that went so far in nearly each step of the last third
of the way (of the sum of learning rates) had not arrived.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.parts import Likelihood
from ppl_vae.traces.pair import Pair

LAST = 1 / 3  # of the way
FEWEST = 6  # epochs in which to see it
SPEED = 0.2  # of the largest there is: where noise moves a number to and fro, it is far below
LEAST = 0.01  # what is worth a word: a percent of a sigma
FEW = 0.1  # of the numbers of a parameter: some of many always move
SHARE = 0.2  # of all that it moved, in the last third; by the same speed all the way it is a third
LARGEST = 4096  # numbers of a parameter that is looked at


class Moved(NamedTuple):
    """A parameter that had not arrived: what it is called, where it was at the start, and at the end."""

    name: str
    start: float
    end: float


class Moving:
    """The ways that a pair's lone numbers, and the parameters of its likelihoods, have gone, epoch by epoch."""

    def __init__(self, pair: Pair) -> None:
        likelihoods = [part for whole in pair.all_modules() for part in whole.modules() if isinstance(part, Likelihood)]
        own = {id(p) for part in likelihoods for p in part.parameters(recurse=False)}
        self.watched: dict[str, Tensor] = {
            name: value
            for name, value in pair.tensors().items()
            if value.requires_grad and (value.numel() == 1 or (id(value) in own and value.numel() <= LARGEST))
        }
        self.owners: dict[int, tuple[Likelihood, str]] = {}  # of a likelihood in another one that one, which is first
        for part in likelihoods:
            for name, value in part.named_parameters():
                self.owners.setdefault(id(value), (part, name))
        self.ways: list[dict[str, Tensor]] = []
        self.reach: list[float] = [0.0]  # the sum of learning rates so far
        self._keep()

    def _keep(self) -> None:
        self.ways.append(
            {name: value.detach().flatten().double().cpu().clone() for name, value in self.watched.items()}
        )

    def note(self, learning_rate: float, steps: int) -> None:
        """Note where they are after an epoch of so many steps."""
        if self.watched:
            self._keep()
            self.reach.append(self.reach[-1] + learning_rate * steps)

    def found(self, optimizer: Any) -> list[Moved]:
        """Return those that had not arrived, the one that moved most at the end first in each parameter."""
        before = [i for i, reach in enumerate(self.reach) if reach <= (1 - LAST) * self.reach[-1]]
        if len(self.ways) <= FEWEST or not self.watched or self.reach[-1] == 0:
            return []
        bounded = all("betas" in group for group in optimizer.param_groups)  # Adam and its kin
        least = SPEED * (self.reach[-1] - self.reach[before[-1]]) if bounded else 0.0
        moved = []
        for name in self.watched:
            way = torch.stack([at[name] for at in self.ways])
            late, whole = way[-1] - way[before[-1]], (way[-1] - way[0]).abs()
            path = way[before[-1] :].diff(dim=0).abs().sum(0)
            still = (late.abs() > SHARE * whole) & (late.abs() > 0.8 * path) & (late.abs() > max(least, LEAST))
            if float(still.double().mean()) > FEW:
                most = int((late.abs() * still).argmax())
                moved.append(Moved(self._called(name, most), float(way[0][most]), float(way[-1][most])))
        return moved

    def _called(self, name: str, index: int) -> str:
        """Return what a number of a parameter is called: of a likelihood's, what that says."""
        owner, own = self.owners.get(id(self.watched[name]), (None, name))
        return name if owner is None else name.removesuffix(own) + owner.called(own, index)


def in_words(moved: list[Moved]) -> str:
    """Return what is said of them."""
    some = "; ".join(f"{one.name} from {one.start:.3g} to {one.end:.3g}" for one in moved)
    return (
        f"A parameter still moved when the fit ended, nearly as fast as the learning rate allows: {some}. It has not "
        f"arrived: raise epochs or learning_rate, or start it nearer to the end."
    )
