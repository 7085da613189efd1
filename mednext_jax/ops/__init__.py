"""Array operations of the network and of resampling; they know nothing of parameters' names or of training.

Tests of files that have none of their own name:
`norm`: tests/ops/test_mlp.py
`banded`: tests/ops/test_depthwise.py
`split`: tests/ops/test_depthwise_halo.py
`pointwise`: tests/model/test_mednext.py
`gelu`: tests/ops/test_mlp.py
`local`: tests/model/test_layout.py
`correlate`: tests/ops/test_depthwise.py
`block_kind`: tests/model/test_config.py
"""
