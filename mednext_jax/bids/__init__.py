"""The BIDS App: a data set in, a derivative out; `predict`, `quantify` and `report` do the work.

Tests of files that have none of their own name:
`description`: tests/bids/test_app.py
`group`: tests/bids/test_app.py
"""
