"""Distributions that Pyro lacks or does not get right; they know PyTorch, Pyro and zuko only.

In the order of reading: `gaussian`, `one_hot`, `pixels`, `counts`, `flows`, and `unwrap`, which finds what stands under
the wrappers of a distribution or of its support.
"""
