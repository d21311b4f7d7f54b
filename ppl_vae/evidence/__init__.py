"""log P(x) of each datum, with its error and how far to believe it.

In the order of reading: `estimators` (`estimate_evidence`) and its `options`; the methods `auto` (each datum by what
it needs), `importance`, `adaptive` (as many samples as a tolerance takes), `remedies` (tried before they are
recommended), `ais` (annealed importance sampling), `bidirectional` (bounds from both sides) of `simulated` data,
`smc` (particle filters) of programs with steps, `sequences`,
`conditional` (log P(x_A | x_B)); the steps of `auto`: `modes` (climbed to), `student` (mixtures of t distributions),
`surface` (densities recorded once), `laplace` (a mixture fitted to each datum) with its `laplace_sampler`, `bridge`
(annealing from there), `reach` (whether a part of the posterior is missed); `edges` (posteriors at a bound); what
they are made of, `prepare`, `at_once` (how samples are drawn in a run), `weight_sampler`, `tempered`, `hmc`,
`refine`, `resampling`; the result, `evidence` (which estimates to doubt) and its `numbers`, as a file `stored`,
`interval`, `scale` (probability or density), `diagnostics` (error, effective sample size, k-hat), what each method
says of its own by its `rules`; `to_arviz`, `arviz_versions`.
"""
