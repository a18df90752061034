"""Search: the best subnets under a limit on their cost, scored generation by generation."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
