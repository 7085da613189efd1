"""NVIDIA kernels of MedNeXt's blocks: channels first, bfloat16, called through jax-triton (extras `cuda12`, `cuda13`).

Used on the GPUs of `SHARED_BYTES` unless the environment says MEDNEXT_JAX_KERNELS=xla. Triton is imported only where
it is used.
"""
