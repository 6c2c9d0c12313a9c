"""A program that kills processes at a system call of theirs, for faults.py.

It reads lines "PID WHO N": WHO is "child", for the children that the process makes from now on, or
"self". Each of those is killed when it is about to make its N-th system call, where one after
another with the same number count as one, and an exec that has succeeded counts as well. "off" ends
that. Each line is answered by one: how many system calls the last one that was looked at has come
to, and how many have been killed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import sys

(CONT, DETACH, SYSCALL, SEIZE, INTERRUPT, GET_SYSCALL_INFO) = (7, 17, 24, 0x4206, 0x4207, 0x420E)
SYSGOOD, FORK, VFORK, CLONE, EXEC = 1, 2, 4, 8, 16
EVENT_EXEC, WALL = 4, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, addr: int = 0, data: object = None) -> int:
    """ptrace(2); -1 for a process that is dead by now, or about to be."""
    result: int = libc.ptrace(request, pid, addr, data)
    if result < 0 and (error := ctypes.get_errno()) != 3:
        raise OSError(error, f"{os.strerror(error)}: ptrace({request:#x}, {pid})")
    return result


class Tracer:
    """What is traced, and whom it concerns."""

    def __init__(self) -> None:
        self.target = 0
        self.seized = set[int]()
        self.who = "off"
        self.n = self.killed = self.reached = 0
        self.last = dict[int, int]()
        self.counts = dict[int, int]()

    def command(self, line: str) -> None:
        if line == "off":
            self.who = "off"
        else:
            pid, self.who, n = line.split()
            self.target, self.n, self.killed, self.reached = int(pid), int(n), 0, 0
            if self.target not in self.seized:
                options = SYSGOOD | FORK | VFORK | CLONE | EXEC
                ptrace(SEIZE, self.target, 0, options)
                self.seized.add(self.target)
        if self.target in self.seized:
            # To go on in the way that is wanted now.
            self.last.pop(self.target, None)
            self.counts.pop(self.target, None)
            ptrace(INTERRUPT, self.target)
            heard = 0
            # Its end is not told before those of its threads have been heard.
            while heard != self.target:
                heard, status = os.waitpid(-1, WALL)
                self.stopped(heard, status)

    def concerned(self, pid: int) -> bool:
        return self.who == ("self" if pid == self.target else "child")

    def stopped(self, pid: int, status: int) -> None:
        if not os.WIFSTOPPED(status):
            self.seized.discard(pid)
            return
        sig, event = os.WSTOPSIG(status), status >> 16
        self.seized.add(pid)
        if pid != self.target and not self.is_process(pid):
            self.let_go(pid)
        elif not self.concerned(pid):
            if pid == self.target:
                ptrace(CONT, pid, 0, 0 if event or sig >= signal.SIGTRAP | 0x80 else sig)
            else:
                self.let_go(pid)
        elif sig == signal.SIGTRAP | 0x80:
            self.at_syscall(pid)
        elif event == EVENT_EXEC:
            self.point(pid, -1)
            self.let_go(pid)
        else:
            ptrace(SYSCALL, pid, 0, 0 if event else sig)

    def at_syscall(self, pid: int) -> None:
        info = ctypes.create_string_buffer(88)
        if ptrace(GET_SYSCALL_INFO, pid, 88, info) > 0 and info.raw[0] == 1:  # entry
            self.point(pid, struct.unpack_from("=Q", info.raw, 24)[0])
        ptrace(SYSCALL, pid)

    def point(self, pid: int, number: int) -> None:
        if self.last.get(pid) == number:
            return
        self.last[pid] = number
        self.counts[pid] = self.reached = self.counts.get(pid, 0) + 1
        if self.reached == self.n:
            self.killed += 1
            os.kill(pid, signal.SIGKILL)

    def let_go(self, pid: int) -> None:
        ptrace(DETACH, pid)
        self.seized.discard(pid)

    @staticmethod
    def is_process(pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/status") as file:
                return f"\nTgid:\t{pid}\n" in file.read()
        except OSError:
            return True

    def look(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | WALL)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.stopped(pid, status)


def nothing(_signal: int, _frame: object) -> None:
    """What wakes is that there is a handler."""


def main() -> None:
    tracer = Tracer()
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, nothing)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        tracer.look()
        if 0 in ready:
            line = sys.stdin.readline()
            if not line:
                return
            tracer.command(line.strip())
            tracer.look()
            print(tracer.reached, tracer.killed, flush=True)


if __name__ == "__main__":
    main()
