"""Processes that work on one job (``python -m paddle.distributed.launch``): rank, world size and communication.

Training a supernet connects them with :func:`join` (NCCL on GPUs, gloo on CPUs); without it the functions below do nothing.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_libraries import refuse_missing_library

if TYPE_CHECKING:
    import paddle


NOT_CONNECTED = "the processes are not connected; start them with python -m paddle.distributed.launch"


def rank() -> int:
    """This process's number, from 0."""
    return _from_environment("PADDLE_TRAINER_ID", 0, range(world()))


def world() -> int:
    """Number of processes."""
    return _from_environment("PADDLE_TRAINERS_NUM", 1, range(1, 1 << 20))


def _from_environment(name: str, default: int, allowed: range) -> int:
    value = os.environ.get(name, str(default))
    if value.isascii() and value.isdecimal() and len(value) < 10 and int(value) in allowed:
        return int(value)
    raise UserError(f"{name}={value!r} in the environment is not a number from {allowed[0]} to {allowed[-1]}; unset it")


def join() -> None:
    """Connect this process with the others, if there are any, on the selected device. Raises UserError without a launcher."""
    if world() > 1:
        import paddle
        import paddle.distributed as dist

        if paddle.get_device() == "cpu":  # with another backend Paddle selects the GPU that the launcher has assigned
            os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
        try:
            if not dist.is_initialized():
                dist.init_parallel_env()
                if paddle.get_device() != "cpu":
                    dist.all_reduce(paddle.zeros([1]))  # the first exchange opens NCCL
        except (RuntimeError, OSError) as error:
            refuse_missing_library(error)
            raise
        except ValueError as error:  # a variable of the launcher is missing
            raise UserError(f"{NOT_CONNECTED} ({' '.join(str(error).split())})") from None
        if connected() == 1:
            raise UserError(NOT_CONNECTED)


def connected() -> int:
    """Number of processes that train one network together: all after :func:`join`, 1 without it."""
    if world() == 1:
        return 1
    import paddle.distributed as dist

    return world() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process writes the files for all connected processes."""
    return connected() == 1 or rank() == 0


def gather(value: Any) -> list[Any]:
    """Every connected process's value (anything that can be pickled), by rank."""
    if connected() == 1:
        return [value]
    import paddle.distributed as dist

    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes without a time limit; gloo's own barrier gives up after 30 seconds."""
    if connected() > 1:
        import paddle.distributed as dist
        from paddle.base import core

        store = core.create_or_get_global_tcp_store()  # join() made it
        arrived = store.add("arrived", 1)
        all_arrived = -(-arrived // world()) * world()  # no process counts for the next barrier before this one has ended
        while store.add("arrived", 0) < all_arrived:
            time.sleep(0.02)
        dist.barrier()  # so that the first process, which serves the counter, does not end before the others have read it


def mean(values: paddle.Tensor) -> paddle.Tensor:
    """The mean over the processes of a detached tensor, in place."""
    return total(values).scale_(1 / connected())


def total(values: paddle.Tensor) -> paddle.Tensor:
    """The sum over the processes of a detached tensor, in place."""
    if connected() > 1:
        import paddle.distributed as dist

        dist.all_reduce(values)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if connected() == 1:
        return flag
    import paddle

    return bool(total(paddle.to_tensor(float(flag))) > 0)


def average_gradients(parameters: list[paddle.Tensor]) -> None:
    """Replace every gradient by its mean over the processes, in one all-reduce of large buckets."""
    if connected() > 1:
        from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

        fused_allreduce_gradients(parameters, None)
