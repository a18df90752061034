"""Networks: the plain ResNet of any architecture, its elastic conversion, the supernet, weights in and out."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
