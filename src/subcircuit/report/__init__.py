"""Presentation of circuits: pictures, summaries, and the result directory of a run.

Names are imported when they are first used, so that a summary does not wait for what draws pictures.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
