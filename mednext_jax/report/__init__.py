"""Pages that show a prediction: one a scan, one for the cohort; each a single HTML file that needs no network.

Tests of files that have none of their own name:
`png`: tests/report/test_mosaic.py
`scan_files`: tests/report/test_report.py
`scan_page`: tests/report/test_in_browser.py
`group_page`: tests/report/test_in_browser.py
"""

from __future__ import annotations

from mednext_jax.command_room import call_room

call_room(__name__, "report")
