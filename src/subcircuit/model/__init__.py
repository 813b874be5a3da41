"""A decoder-only transformer as one value, the pure functions that run it, and how to load one.

Names are imported when they are first used, so that showing a circuit does not wait for transformers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
