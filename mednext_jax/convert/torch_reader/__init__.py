"""A PyTorch file read without torch, and without running the pickle in it."""
