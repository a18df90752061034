"""Prior-guided one-shot architecture search in PaddlePaddle: what the command lines do, from Python.

The public names are listed in ``__init__.pyi``. Each is loaded when it is first asked for, so that ``import paddle_pgonas`` takes
milliseconds and Paddle is loaded by what computes with it. docs/example.py shows them at work, docs/api.md lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
