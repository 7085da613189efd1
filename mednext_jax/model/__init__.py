"""The network: its configuration and its blocks.

Tests of files that have none of their own name:
`blocks`: tests/model/test_mednext.py
"""
