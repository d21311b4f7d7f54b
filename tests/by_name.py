"""A model and a guide by name, as `train` makes them."""

from ppl_vae.runs.build import choose


def build(model, guide=None, *, event_shape, **asked):
    """Return the pair, and the settings that were used."""
    programs = choose(model, guide, **asked)
    return *programs.make(event_shape), programs.used
