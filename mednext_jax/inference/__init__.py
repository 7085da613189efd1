"""Prediction: tiles, the compiled sliding window, one scan, a whole cohort.

Tests of files that have none of their own name:
`on_device`: tests/inference/test_predictor.py
"""
