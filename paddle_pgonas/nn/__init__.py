"""Networks: the plain ResNet of any architecture, elastic layers, the supernet, reading and writing weights."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
