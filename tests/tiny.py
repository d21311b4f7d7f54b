"""Six images of sixteen pixels, with labels and strings: enough for conditional models."""

import torch

from ppl_vae.architectures import Concatenated

SHAPE = (1, 4, 4)
SMALL = {"networks": Concatenated(hidden=8)}
IMAGES = torch.bernoulli(torch.full((6, *SHAPE), 0.5), generator=torch.Generator().manual_seed(0))
STRINGS = torch.stack([IMAGES, 1 - IMAGES], dim=1)
LABELS = torch.arange(6) % 3
QUICK = ["--epochs", "2", "--set", "decoder.hidden=16", "--set", "encoder.hidden=16", "--num-samples", "20"]
QUICK += ["--method", "importance"]
