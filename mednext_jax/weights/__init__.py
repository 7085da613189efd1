"""Weights on disk: PyTorch's names, the safetensors file, the model directory and its recipe, UpKern; NumPy only."""
