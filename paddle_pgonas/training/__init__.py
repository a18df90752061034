"""Training: the step of each method, the schedules, and the trainer."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
