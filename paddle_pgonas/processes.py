"""Processes that work on one job (``python -m paddle.distributed.launch``): rank, world size and communication.

Training a supernet connects them with :func:`together` (NCCL on GPUs, gloo on CPUs); without it the functions below do nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from paddle_pgonas.errors import UserError
from paddle_pgonas.gpu_libraries import refuse_missing_library
from paddle_pgonas.peers import Lost, Peers

if TYPE_CHECKING:
    import paddle


_ENDPOINTS = "PADDLE_TRAINER_ENDPOINTS"

_peers: list[Peers] = []
"""The lines to the other processes, as soon as these are connected."""


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


def announced() -> str:
    """Why this process believes that there are others."""
    return f"PADDLE_TRAINERS_NUM={world()} and PADDLE_TRAINER_ID={rank()} in the environment"


def say_share() -> None:
    """Say in one line that this process takes its share only, if variables tell so that no launcher may have set."""
    if world() > 1 and _ENDPOINTS not in os.environ:
        print(f"process {rank()} of {world()}, as {announced()} say; unset them if there is no other", file=sys.stderr)


@contextmanager
def together() -> Iterator[None]:
    """Connect this process with the others, if there are any, on the selected device, and run the block.

    If it raises here, the others end with this reason where they wait next. Raises UserError without a launcher, or if another
    process does not start in time.
    """
    if world() > 1:
        _join()
    try:
        yield
    except BaseException as error:
        for peers in _peers:
            peers.tell(str(error) if isinstance(error, Lost) else f"process {rank()} has ended: {_reason(error)}")
        raise


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else "interrupted" * isinstance(error, KeyboardInterrupt) or repr(error)


def _join() -> None:
    import paddle
    import paddle.distributed as dist

    if paddle.get_device() == "cpu":  # with another backend Paddle selects the GPU that the launcher has assigned
        os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
    if not _peers:
        endpoints = os.environ.get(_ENDPOINTS, "").split(",")
        if len(endpoints) != world():
            start = "start all processes with python -m paddle.distributed.launch, or unset both"
            raise UserError(f"{announced()}, but {_ENDPOINTS} does not name {world()} addresses; {start}")
        _peers.append(Peers(rank(), world(), endpoints[0]))
    try:
        if not dist.is_initialized():
            dist.init_parallel_env()
            if paddle.get_device() != "cpu":
                dist.all_reduce(paddle.zeros([1]))  # the first exchange opens NCCL
            _peers[0].meet()  # one that ended now would fail the others in the midst of this
    except (RuntimeError, OSError) as error:
        refuse_missing_library(error)
        raise
    except ValueError as error:  # a variable of the launcher is missing
        remedy = "start the processes with python -m paddle.distributed.launch"
        raise UserError(f"the processes are not connected; {remedy} ({' '.join(str(error).split())})") from None


def connected() -> int:
    """Number of processes that train one network together: all inside :func:`together`, 1 without it."""
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

    barrier()
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all processes. Raises UserError in all of them if one has ended."""
    if connected() > 1:
        for peers in _peers:
            peers.meet()


@contextmanager
def _exchange() -> Iterator[None]:
    """Around an exchange of tensors: all processes meet before one of gloo, which waits for 30 seconds only."""
    import paddle.distributed as dist

    if dist.get_backend() != "GLOO":
        yield
        return
    barrier()
    try:
        yield
    except RuntimeError as error:
        said = str(error).strip().rpartition("\n")[2]
        lost = "another process of this job has ended, or paused for 30 seconds within an exchange"
        raise Lost(f"{lost}; start all again, a training with resume=True ({said[:200]})") from None


def mean(values: paddle.Tensor) -> paddle.Tensor:
    """The mean over the processes of a detached tensor, in place."""
    return total(values).scale_(1 / connected())


def total(values: paddle.Tensor) -> paddle.Tensor:
    """The sum over the processes of a detached tensor, in place."""
    if connected() > 1:
        import paddle.distributed as dist

        with _exchange():
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

        with _exchange():
            fused_allreduce_gradients(parameters, None)
