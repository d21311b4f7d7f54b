"""Distributions that Pyro lacks or does not get right; they know PyTorch, Pyro and zuko only.

In the order of reading: `gaussian`, `one_hot`, `pixels`, `counts`, `bounded`, `codes`, `columns` (of a table, side by
side), `flows`, `chains` (series), `unwrap`, which looks under wrappers, `supports` (where values lie) and `masks`
(inside distributions).
"""
