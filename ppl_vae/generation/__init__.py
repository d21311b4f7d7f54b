"""New x from a model: from the prior, from a posterior, given a condition, or where values are missing.

In the order of reading: `generate` (`sample`, `reconstruct`, `manifold`), `ancestral` (one chunk of draws, compiled or
not), `impute`.
"""
