"""From names and files to programs, and from programs to a run folder.

In the order of reading: `kinds` (which kinds of parts there are), `build` (a model and a guide by name), `objective`,
`listing` (`list_parts`); `run` (a run folder read again), and what is done with one: `train`, `evaluate`, `sample`,
`impute`, `figures`.
"""
