"""Processes that work on one job (``python -m paddle.distributed.launch``): who this one is, and the little they tell each other.

Scoring only needs to know its rank. Training connects the processes with :func:`join` (NCCL on GPUs, gloo on processors).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from paddle_pgonas.errors import UserError

if TYPE_CHECKING:
    import paddle


def rank() -> int:
    """This process's number, from 0."""
    return _from_environment("PADDLE_TRAINER_ID", 0, range(world()))


def world() -> int:
    """How many processes there are."""
    return _from_environment("PADDLE_TRAINERS_NUM", 1, range(1, 1 << 20))


def _from_environment(name: str, default: int, allowed: range) -> int:
    value = os.environ.get(name, str(default))
    if value.isascii() and value.isdecimal() and len(value) < 10 and int(value) in allowed:
        return int(value)
    raise UserError(f"{name}={value!r} in the environment is not a number from {allowed[0]} to {allowed[-1]}; unset it")


def join() -> None:
    """Connect this process with the others; nothing to do for a single one."""
    if world() > 1:
        import paddle.distributed as dist

        if not dist.is_initialized():
            dist.init_parallel_env()


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        import paddle.distributed as dist

        dist.barrier()


def mean(values: paddle.Tensor) -> paddle.Tensor:
    """The mean over the processes of a detached tensor, in place."""
    return total(values).scale_(1 / world())


def total(values: paddle.Tensor) -> paddle.Tensor:
    """The sum over the processes of a detached tensor, in place."""
    if world() > 1:
        import paddle.distributed as dist

        dist.all_reduce(values)
    return values


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if world() == 1:
        return flag
    import paddle

    return bool(total(paddle.to_tensor(float(flag))) > 0)


def average_gradients(parameters: list[paddle.Tensor]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange of large buckets."""
    if world() > 1:
        from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

        fused_allreduce_gradients(parameters, None)
