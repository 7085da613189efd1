"""Perivascular spaces simulated in a real template brain, in real scans, and in label maps of heads.

Tests of files that have none of their own name:
`anatomy`: tests/simulate/test_anatomy_maps.py
`dataset_files`: tests/simulate/test_simulate.py
`subject`: tests/simulate/test_anatomy.py
`template`: tests/simulate/test_anatomy.py
`deform`: tests/simulate/test_anatomy.py
`deformed_head`: tests/simulate/test_generator.py
`flat_index`: tests/simulate/test_painted_tubes.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "simulate")
