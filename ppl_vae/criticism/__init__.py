"""What a fitted pair is worth.

In the order of reading: `gaps` (why the ELBO is below log P(x)), `latent_use` (which latents are used), `calibration`
(whether Q is the posterior, by data that the model draws) with its `simulated_ranks`, `ranks` (of many quantities, in
words) and `uniformity`, `check_bound` (ELBO <= IWAE <= log P(x), asserted), `quadrature` (exact for one dimension of
z), `comparable` (what may be compared), `comparison` (of models on the same data, by one run each or by several seeds),
`difference` (of two pairs, in parts), `accuracy` (of Q(y | x)), `scores` (data ranked by log P(x)) with their
`conformal` p-values, and for conditional models `one_to_many`, `answers`, `image_classifier`.
"""
