"""From a scan to what the network sees: clean, crop, normalise, resample.

Tests of files that have none of their own name:
`normalise`: tests/preprocess/test_trip.py
`preprocessing`: tests/preprocess/test_trip.py
`crop`: tests/preprocess/test_trip.py
"""
