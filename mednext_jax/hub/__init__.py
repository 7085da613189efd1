"""What `-m` takes: files, folders, archives and addresses, each opened as models; what is kept of them.

Tests of files that have none of their own name:
`archive`: tests/hub/test_fetched.py
`web`: tests/hub/test_fetched.py
`find`: tests/hub/test_open_model.py
`cache`: tests/hub/test_open_model.py
`known`: tests/hub/test_list_models.py
"""
