"""Stochastic variational inference.

In the order of reading: `svi` (`fit`), `options` (its options), `start` (what parts take from the data), `identity`
(which fits may go on as one), `training` (one epoch after another), `steps` (one step, compiled or not), `moving`
(parameters that had not arrived), `history` (what a fit leaves), `checkpoint` (the files of a run folder) and their
`schemas`.
"""
