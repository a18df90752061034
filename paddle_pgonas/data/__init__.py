"""Images: where they come from, how they are decoded once, and how training batches are made from (seed, epoch, step)."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
