"""From masks to measures: tables of clusters and regions, for one scan and for a cohort.

Tests of files that have none of their own name:
`columns`: tests/quantify/test_one_scan.py
`scan_tables`: tests/inference/test_outputs.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "quantify")
