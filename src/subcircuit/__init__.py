"""Find the sub-circuit of a language model that carries out a behaviour.

    import subcircuit as sc

    model = sc.load_model("smollm2-135m")
    task = sc.load_task("ioi", model, examples=8)
    result = sc.discover(model, task, sc.Acdc(threshold=0.02))
    result.circuit.save("ioi")

Names are imported when they are first used, so that importing the package (and ``subcircuit --help``) does not wait
for torch. ``__init__.pyi`` lists them, for type checkers as well.
"""

import lazy_loader

__version__ = "0.2.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
