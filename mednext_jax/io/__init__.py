"""Files in and out: NIfTI scans, nnU-Net and BIDS data sets, whole-or-not-at-all writing.

Tests of files that have none of their own name:
`raw_dataset`: tests/io/test_nnunet_raw.py
"""
