"""The kernels run in Triton's interpreter here, which has to be asked for before they are defined."""

import os

os.environ["TRITON_INTERPRET"] = "1"
