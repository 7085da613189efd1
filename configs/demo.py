"""What `mednext-jax demo` trains: a small network for a CPU. The values are in the package."""

from mednext_jax.train.recipes import demo as get_config  # noqa: F401
