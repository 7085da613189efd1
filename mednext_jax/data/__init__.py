"""From prepared cases to batches: splits, patch sampling, the host pipeline, augmentation on the device.

Tests of files that have none of their own name:
`prepared`: tests/data/test_case_store.py
`stored_files`: tests/data/test_case_store.py
`stored_case`: tests/data/test_case_store.py
"""
