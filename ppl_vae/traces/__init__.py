"""A model and a guide run together, and what their traces say.

In the order of reading: `programs` (what a program may be), `parameters` (what plain functions keep in Pyro's store),
`pair` (two programs and all that belongs to them), `sites` (what each site is, and what it counts), `plates` (the plate
over the data, log-probabilities for each datum), `handlers` (Pyro's effect handlers that the other rooms use), `run`
(the guide, then the model against it, K times at once), `log_weights` (log P(x, z) - log Q(z | x), [K, N]),
`divergence` (KL[Q || P] of one site), `anywhere` (guides whose density is known at their own draws only), `proposal`
(whether the density of what a guide draws is known, and lives where the model's does).
"""
