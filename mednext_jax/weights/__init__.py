"""Weights on disk: PyTorch's names, the safetensors file, the model directory and its recipe, UpKern; NumPy only.

Tests of files that have none of their own name:
`recipe`: tests/weights/test_directory.py
`safetensors_file`: tests/weights/test_directory.py
"""
