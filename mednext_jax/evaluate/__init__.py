"""Comparison of predicted with reference masks: voxels, clusters, cases, cohorts.

Tests of files that have none of their own name:
`scores_file`: tests/evaluate/test_cross_validation.py
`case`: tests/evaluate/test_evaluate.py
`cohort`: tests/evaluate/test_cross_validation.py
`voxel`: tests/evaluate/test_evaluate.py
`table`: tests/evaluate/test_evaluate.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "evaluate")
