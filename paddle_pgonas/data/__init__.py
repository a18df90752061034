"""Images: sources, the cache of decoded images, and training batches as a function of (seed, epoch, step)."""

from paddle_pgonas.runtime import prepare_process

prepare_process()
