"""What every room may use, and that knows nothing of models.

In the order of reading: `files` (written whole or not at all), `array_files`, `formats` (of which others are
readers), `locks` (of folders), `digests` (of trees of numbers), `forks` (which have one OpenMP thread),
`one_at_a_time` (threads of this process take turns), `rng`, `chunks`, `threads` (how many: as told, or by a trial),
`memory` (of the machine), `registrations` (the sizes of modules while they are made), `arrays` (a person's numbers as
tensors), `moments` (mean and spread of data), `loops` (over the steps of a series), `progress`, `modules` (their
modes and buffers), `precision` (bfloat16 products), `report` (a table of means), `faults` (what a person's program
raises, in words), `terminal` (output that never fails), `moved` (old module paths).
"""
