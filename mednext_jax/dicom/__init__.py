"""DICOM: a series as a NIfTI scan, and what was found as a segmentation and a report beside the series.

Tests of files that have none of their own name:
`object_file`: tests/dicom/test_segmentation.py
"""
