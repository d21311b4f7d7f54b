"""From names and files to programs, and from programs to a run folder.

In the order of reading: `kinds` (which kinds of parts there are), `signature` (the options of a function, read
without importing it), `build` (a model, a guide and an objective by name), `listing` (`list_parts`), `recipe` (what
run.json says), `trusted` (what is asked of a folder before anything of it is run), `run` (a run in memory, or read
from its folder), and what is done with one: `train`, `compare`, `difference`, `evaluate`, `sample`, `impute`,
`calibrate`, `score`, `encode` (of its own data or of `new_rows`), `figures`.
"""
