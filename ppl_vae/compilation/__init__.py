"""Any function of tensors, recorded once and compiled; it knows no Pyro program.

In the order of reading: `record` (a function as a graph of tensor operations), `rewrites` (the same numbers for less),
`loops` (over time, of which one step is compiled), `capture` (the graph compiled, and when that pays).
"""
