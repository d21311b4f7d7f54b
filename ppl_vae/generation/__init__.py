"""New x from a model: from the prior, from a posterior, given a condition, or where values are missing.

In the order of reading: `generate` (`sample`, `reconstruct`, `manifold`), `programs` (how any program is called, and
where its data are), `ancestral` (one chunk of draws, compiled or not), `impute`,
`encode` (z of data by the guide).
"""
