"""What every room may use, and that knows nothing of models.

In the order of reading: `files` (written whole or not at all), `rng` (random states that come and go), `chunks`,
`threads` (how many: as told, or by a trial), `progress`, `precision` (bfloat16 products), `report` (a table of means as
text and HTML), `moved` (old module paths in people's files).
"""
