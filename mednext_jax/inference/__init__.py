"""Prediction: tiles, the compiled sliding window, one scan, a whole cohort.

Tests of files that have none of their own name:
`on_device`: tests/inference/test_predictor.py
`claim`: tests/inference/test_outputs.py
`cohort_tables`: tests/inference/test_gather.py
`derivative`: tests/inference/test_predict.py
`failures`: tests/inference/test_predict.py
`headers`: tests/inference/test_predict.py
`run_record`: tests/inference/test_outputs.py
`scan_record`: tests/inference/test_outputs.py
`stream`: tests/inference/test_predict.py
"""
