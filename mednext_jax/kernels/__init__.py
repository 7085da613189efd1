"""NVIDIA kernels of MedNeXt's blocks: channels first, bfloat16, called through jax-triton (extras `cuda12`, `cuda13`).

Used on the GPUs of `SHARED_BYTES` unless the environment says MEDNEXT_JAX_KERNELS=xla. Triton is imported only where
it is used.

Tests of files that have none of their own name:
`convolve`: tests/kernels/test_fused_blocks.py
`depthwise`: tests/kernels/test_fused_blocks.py
`mlp`: tests/kernels/test_fused_blocks.py
`norm_mlp`: tests/kernels/test_fused_blocks.py
`bands`: tests/kernels/test_fused_blocks.py
`strided`: tests/kernels/test_fused_blocks.py
`moments`: tests/kernels/test_fused_blocks.py
`norms`: tests/kernels/test_fused_blocks.py
`channels_first`: tests/kernels/test_network.py
`launch`: tests/kernels/test_lowering.py
`gpus`: tests/kernels/test_best_ops.py
`user_tiles`: tests/kernels/test_tile_sizes.py
`kept`: tests/kernels/test_kernel_cache.py
`tuned_tiles`: tests/kernels/test_tile_sizes.py
`instance_norm`: tests/kernels/mosaic/test_lane_blocks.py
`lane_ops`: tests/kernels/mosaic/test_lane_blocks.py
`xla_depthwise`: tests/kernels/mosaic/test_lane_blocks.py
`tap_products`: tests/kernels/mosaic/test_depthwise.py
`words`: tests/kernels/mosaic/test_depthwise.py
"""
