"""`python -m mednext_jax`, the same as `mednext-jax`."""

import sys

from mednext_jax.main import main

sys.exit(main())
