"""Data sets with fixed splits, named or a person's own: `load`, and what any data becomes before a program sees it."""

from ppl_vae.data.named import NAMED, Data, folder, load

__all__ = ["NAMED", "Data", "folder", "load"]
