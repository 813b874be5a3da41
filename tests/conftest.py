"""Set before transformers is imported: the whole suite runs with the network cut."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
