"""Comparison of masks with references and raters: voxels, clusters, surfaces, cases, cohorts, thresholds.

Tests of files that have none of their own name:
`scores_file`: tests/evaluate/test_cross_validation.py
`case`: tests/evaluate/test_evaluate.py
`cohort`: tests/evaluate/test_cross_validation.py
`voxel`: tests/evaluate/test_evaluate.py
`table`: tests/evaluate/test_evaluate.py
`rating`: tests/evaluate/test_results.py
`tool_sweep`: tests/evaluate/thresholds/test_sweep.py
`figure_file`: tests/evaluate/figures/test_figures.py
`rater_figures`: tests/evaluate/figures/test_figures.py
`study_figures`: tests/evaluate/figures/test_figures.py
`threshold_figures`: tests/evaluate/figures/test_figures.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "evaluate")
