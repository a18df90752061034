"""Prior-guided one-shot architecture search in PaddlePaddle: the functions of the command lines, from Python.

The public names are listed in ``__init__.pyi``. Each is loaded at its first use, so ``import paddle_pgonas`` takes
milliseconds, and Paddle is loaded only by names that need it. docs/example.py uses them, the site of `make docs` lists them.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
