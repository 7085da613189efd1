"""TPU kernels of MedNeXt's blocks, written in Pallas: bfloat16, activations laid out as `layout` says.

The halves of a block meet in a few numbers per channel. A depthwise convolution hands over u and, float32 (n, 2, c),
the sums over its voxels of u - bias and of (u - bias)^2. Its gradients take dt, the gradient at the norm's output, and
the norm's backward as three float32 (n, c): the gradient at the convolution's output is scale dt + slope u + level.
"""
