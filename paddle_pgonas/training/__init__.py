"""Training: what one step of each method does, the schedules, and the trainer around them."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
