"""Lines between the first process of a job and each other one: they wait for each other, and learn when one ends, and why.

Paddle's own exchanges do not say for whom they wait; no signal is handled while its store connects; and those of gloo give up
after 30 seconds, which cannot be changed. So the processes meet here first (:mod:`paddle_pgonas.processes`).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from paddle_pgonas.errors import UserError

START = 600.0
"""Seconds within which all processes must start."""
QUIET = 10.0
"""Seconds of waiting before a line says for whom."""
LONGEST = 4096
"""Bytes of a reason."""


class Lost(UserError):
    """Another process of the job has ended; the message is the reason that it told."""


class Peers:
    """The lines of a process, by the rank at their other end: the first process has one to each other, they have one to it.

    ``endpoint`` (``host:port``) is where the first process listens until all have come. Raises UserError if it cannot, or if a
    process does not come in time.
    """

    def __init__(self, rank: int, world: int, endpoint: str) -> None:
        self.rank, self.world = rank, world
        host, _, port = endpoint.rpartition(":")
        if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
            raise UserError(f"PADDLE_TRAINER_ENDPOINTS in the environment: {endpoint!r} is not host:port")
        self.lines: dict[int, Connection] = {}
        if rank == 0:
            self._listen(int(port))
        else:
            self._call(host, int(port))
        os.register_at_fork(after_in_child=self._forget)  # else a loader process would keep the line of a killed one open

    def _forget(self) -> None:
        for line in self.lines.values():
            line.close()
        self.lines = {}

    def _listen(self, port: int) -> None:
        waiting = _Wait(START)
        try:
            server = socket.create_server(("", port))
        except OSError as error:
            raise UserError(f"port {port} of PADDLE_TRAINER_ENDPOINTS: {error.strerror}; choose another port") from None
        with server:
            server.settimeout(0.1)
            while missing := set(range(1, self.world)) - self.lines.keys():
                waiting.goes_on(missing, self.world)
                with suppress(OSError, EOFError, ValueError):  # nobody has called, or it was no process of this job
                    line = _line(server.accept()[0])
                    if line.poll(1.0) and (rank := int(line.recv_bytes(20))) in missing:
                        self.lines[rank] = line
        for line in self.lines.values():
            self._send(line)

    def _call(self, host: str, port: int) -> None:
        waiting = _Wait(START)
        while not self.lines:
            try:
                caller = socket.create_connection((host, port), timeout=5)
                if caller.getsockname() == caller.getpeername():  # nobody listens, and TCP has connected the port to itself
                    raise OSError
                line = _line(caller)
                line.send_bytes(str(self.rank).encode())
                while not line.poll(0.1):
                    waiting.goes_on({0}, self.world)
                if not line.recv_bytes(LONGEST):
                    self.lines[0] = line
            except (OSError, EOFError):
                waiting.goes_on({0}, self.world)
                time.sleep(0.1)

    def meet(self) -> None:
        """Wait until all processes are here, and running. Raises :class:`Lost` if one has ended instead."""
        if self.rank and self.lines[0].poll():  # before this process is here, it can only be a reason
            self._hear(0)
        for _ in range(2):  # the second time none comes from a wait, in which it may have been stopped
            if self.rank:
                self._send(self.lines[0])
                self._hear_all()
            else:
                self._hear_all()
                for line in self.lines.values():
                    self._send(line)

    def _hear_all(self) -> None:
        waiting, missing = _Wait(), set(self.lines)
        while missing:
            ready = wait([self.lines[rank] for rank in missing], 1.0)
            for rank in [rank for rank in missing if self.lines[rank] in ready]:
                self._hear(rank)
                missing.remove(rank)
            waiting.goes_on(missing, self.world)

    def tell(self, reason: str) -> None:
        """Let the others end with this reason where they meet next."""
        for line in self.lines.values():
            self._send(line, reason.encode()[:LONGEST])

    @staticmethod
    def _send(line: Connection, word: bytes = b"") -> None:
        with suppress(OSError):  # the other process has ended, which the next :meth:`_hear` says
            line.send_bytes(word)

    def _hear(self, rank: int) -> None:
        try:
            reason = self.lines[rank].recv_bytes(LONGEST)
        except (OSError, EOFError):
            raise Lost(f"process {rank} of this job has ended without a reason; see its output, and start all again") from None
        if reason:
            raise Lost(reason.decode(errors="replace"))


class _Wait:
    """Says once for whom this process waits."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self.began, self.said = limit, time.monotonic(), False

    def goes_on(self, missing: Collection[int], world: int) -> None:
        """Raises UserError after the limit."""
        waited = time.monotonic() - self.began
        names = f"process {', '.join(map(str, sorted(missing)))} of {world}"
        if self.limit and waited > self.limit:
            raise UserError(f"{names} did not start within {self.limit / 60:g} minutes; see its output, and start all again")
        if waited > QUIET and missing and not self.said:
            print(f"waiting for {names}", file=sys.stderr, flush=True)
            self.said = True


def _line(connected: socket.socket) -> Connection:
    """A connection of single messages; it also notices that the other machine is gone."""
    connected.settimeout(None)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    return Connection(connected.detach())
