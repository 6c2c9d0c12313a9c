"""The stub between two pipes, as a program has them that sshd starts."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading
from collections.abc import Generator

import pytest

from e2e.servers import DEADLINE, HELLO, STUB, environment, event
from rsyscall.sys.syscall import SYS
from rsyscall_protocol import (
    Call,
    CallFlag,
    Error,
    ErrorCode,
    Feature,
    Hello,
    Limits,
    Out,
    Result,
    decode,
)

FIRST = 200  # where its two pipes are


class Stub:
    """One that runs between two pipes, and our ends of them."""

    def __init__(self) -> None:
        self.its_input, self.to = os.pipe()
        self.out, self.its_output = os.pipe()
        numbers = (self.its_input, self.its_output)
        # Under two numbers that follow each other.
        moved = [os.dup2(number, FIRST + i) for i, number in enumerate(numbers)]
        self.process = subprocess.Popen(
            [STUB, "--fd", str(FIRST)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            pass_fds=moved,
        )
        for number in (*numbers, *moved):
            os.close(number)
        self.data = b""

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.to, data) :]

    def receive(self) -> object:
        """The next message."""
        while True:
            if len(self.data) >= 5:
                size = int.from_bytes(self.data[1:5], "big")
                if len(self.data) >= 5 + size:
                    body, self.data = self.data[5 : 5 + size], self.data[5 + size :]
                    return decode(body, Limits())
            assert select.select([self.out], [], [], DEADLINE)[0]
            data = os.read(self.out, 65536)
            assert data, "the stub has closed its output"
            self.data += data

    def close(self) -> None:
        for fd in (self.to, self.out):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def stub() -> Generator[Stub]:
    stub = Stub()
    try:
        yield stub
    finally:
        stub.close()


def greet(stub: Stub) -> None:
    stub.send(HELLO)
    assert isinstance(stub.receive(), Hello)


def test_nothing_that_takes_descriptors_can_be_had(stub: Stub) -> None:
    """Whatever a client thinks: no ring, no descriptor as a result."""
    stub.send(event(Hello(features=Feature.RING | Feature.BATCH)))
    hello = stub.receive()
    assert isinstance(hello, Hello)
    assert hello.features == Feature.BATCH
    assert hello.limits.fds == 0
    stub.send(event(Call(1, int(SYS.dup), (0,), CallFlag.RETURN_FD)))
    error = stub.receive()
    assert isinstance(error, Error)
    assert error.code is ErrorCode.TOO_MANY_FDS


def test_answers(stub: Stub) -> None:
    greet(stub)
    stub.send(event(Call(1, int(SYS.getppid))) + event(Call(2, int(SYS.getpid))))
    assert stub.receive() == Result(1, os.getpid())
    assert stub.receive() == Result(2, stub.process.pid)
    os.close(stub.to)
    assert stub.process.wait(DEADLINE) == 0


def test_answers_that_do_not_fit_into_the_pipe(stub: Stub) -> None:
    """They are written as they are read, and others are taken in meanwhile."""
    greet(stub)
    size, count = 200_000, 5
    call = Call(1, int(SYS.getrandom), (Out(size), size, 0))
    requests = b"".join(event(Call(i + 1, call.nr, call.args)) for i in range(count))
    sender = threading.Thread(target=stub.send, args=(requests,))
    sender.start()
    for i in range(count):
        answer = stub.receive()
        assert isinstance(answer, Result)
        assert (answer.id, answer.value, len(answer.outs[0])) == (i + 1, size, size)
    sender.join()


@pytest.mark.parametrize("end", ["to", "out"])
def test_ends_with_its_client_even_in_a_call_that_blocks(stub: Stub, end: str) -> None:
    greet(stub)
    stub.send(event(Call(1, int(SYS.pause))) + event(Call(2, int(SYS.getppid))))
    assert stub.receive() == Result(2, os.getpid())
    os.close(getattr(stub, end))
    assert stub.process.wait(DEADLINE) == 0


def test_its_pipes_cannot_be_closed(stub: Stub) -> None:
    greet(stub)
    for fd in (FIRST, FIRST + 1):
        stub.send(event(Call(1 + fd, int(SYS.close), (fd,))))
        answer = stub.receive()
        assert isinstance(answer, Result)
        assert answer.value == -1  # EPERM


def test_wants_both_of_them() -> None:
    out, its_input = os.pipe()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(out, FIRST)
        os.dup2(theirs.fileno(), FIRST + 1)
        done = subprocess.run(
            [STUB, "--fd", str(FIRST)],
            stderr=subprocess.PIPE,
            pass_fds=[FIRST, FIRST + 1],
            timeout=DEADLINE,
            check=False,
        )
        for fd in (out, its_input, FIRST, FIRST + 1):
            os.close(fd)
    assert (done.returncode, done.stderr) == (2, b"rsyscall-stub: --fd: not a socket\n")
