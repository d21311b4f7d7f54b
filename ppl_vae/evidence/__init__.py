"""log P(x) of each datum, with its error and how far to believe it.

In the order of reading: `estimators` (`estimate_evidence`); the methods `importance`, `adaptive` (as many samples as a
tolerance takes), `ais` (annealed importance sampling), `bidirectional` (bounds from both sides); what they are made of,
`prepare`, `weight_sampler`, `tempered`, `hmc`, `refine`, `resampling`; the result, `numbers`, `evidence`, `diagnostics`
(error, effective sample size, k-hat), `reliability` (which estimates to doubt), `scale` (probability or density),
`summary`, `to_arviz`.
"""
