"""Training: configuration, loss, optimiser, the jitted step, the loop around it, checkpoints and logs.

Tests of files that have none of their own name:
`recipes`: tests/train/test_configuration.py
`run`: tests/train/test_train.py
`loop`: tests/train/test_train.py
`records`: tests/train/test_train.py
`folds`: tests/train/test_train.py
`epoch`: tests/train/test_train.py
`validation`: tests/train/test_train.py
`card`: tests/train/test_train.py
`label_ranges`: tests/train/test_train.py
`events`: tests/train/test_log.py
`picture`: tests/train/test_log.py
`state`: tests/train/test_step.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "train")
