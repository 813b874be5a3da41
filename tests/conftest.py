"""Set before transformers is imported: the whole suite runs with the network cut."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

# tiny models still take longer than hypothesis expects; on CI the same examples run every time
settings.register_profile("subcircuit", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("subcircuit")
