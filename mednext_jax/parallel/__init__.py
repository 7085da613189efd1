"""Devices: the mesh and how arrays lie on it.

Tests of files that have none of their own name:
`mesh`: tests/parallel/test_processes.py
`parameters`: tests/parallel/on_eight_devices/test_parameters.py
`sharded_ops`: tests/parallel/on_eight_devices/test_network.py
`halo`: tests/parallel/on_eight_devices/test_network.py
`network`: tests/parallel/on_eight_devices/test_network.py
"""
