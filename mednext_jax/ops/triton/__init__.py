"""NVIDIA kernels of MedNeXt's blocks: channels first, bfloat16, called through jax-triton (extras `cuda12`, `cuda13`).

Import `mednext_jax.ops.triton.channels_first` to use them; nothing here is imported where Triton is not installed.
"""
