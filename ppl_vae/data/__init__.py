"""Data sets with fixed splits, named or a person's own: `load`, and what any data becomes before a program sees it."""

from ppl_vae.data.named import NAMED, Data, folder, load
from ppl_vae.data.schema import Schema

__all__ = ["NAMED", "Data", "Schema", "folder", "load"]
