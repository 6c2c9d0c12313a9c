"""Which numbers of a table of file descriptors have handles, and which have had some.

Nothing is closed here. What nobody can name any more is collected in `garbage`, for who may make
calls in the table. What runs when a handle is garbage collected only says so, in `lost`: it may run
anywhere, in the middle of anything.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rsyscall.far import File, Task
    from rsyscall.handle.fd import BaseFileDescriptor

__all__ = ["Held", "Numbers"]

#: So many are closed for the price of one.
_ENOUGH = 64
#: Standard input, output and error belong to the process, and not to who asks for a handle.
_LAST_STANDARD = 2
_STANDARD = range(_LAST_STANDARD + 1)
_ONLY_STANDARD = frozenset(_STANDARD)


class _Ref(weakref.ref["BaseFileDescriptor"]):
    """A handle, and what it holds."""

    __slots__ = ("held",)
    held: Held


def _lose(ref: weakref.ref[BaseFileDescriptor]) -> None:
    if isinstance(ref, _Ref):
        ref.held.lost.append(ref.held)


class Held:
    """A number of a table for as long as it means the same descriptor, and its handles.

    collected: whether it is to be closed once nobody can name it. kept: not even then, since it was
    told to stay open for another program. maker: whose call has made it. origin: what it is a copy
    of, in the table that this one began as a copy of; cut: whether that does not count any more.
    file: what it has open, once somebody asked; see source.
    """

    __slots__ = ("collected", "cut", "file", "kept", "lost", "maker", "number", "origin", "refs")

    def __init__(self, number: int, lost: deque[Held], maker: Task | None = None) -> None:
        """Without handles. maker: if a call has made it; then it is collected."""
        self.number: int = number
        self.lost: deque[Held] = lost
        self.maker: Task | None = maker
        self.collected: bool = maker is not None
        self.kept: bool = False
        self.origin: Held | None = None
        self.cut: bool = False
        self.file: File | None = None
        self.refs: list[_Ref] = []

    def add(self, handle: BaseFileDescriptor) -> None:
        """Another handle."""
        ref = _Ref(handle, _lose)
        ref.held = self
        self.refs.append(ref)

    def remove(self, handle: BaseFileDescriptor) -> None:
        """One handle less."""
        self.refs = [ref for ref in self.refs if ref() is not handle]

    def handles(self) -> list[BaseFileDescriptor]:
        """Those that there are."""
        return [handle for ref in self.refs if (handle := ref()) is not None]

    def others(self, handle: BaseFileDescriptor) -> bool:
        """Whether there is another handle whose task is not over."""
        if len(self.refs) == 1:
            return False
        tasks = handle.task.fd_table.tasks
        return any(one is not handle and one.task in tasks for one in self.handles())

    def reachable(self) -> bool:
        """Whether anybody has a handle, or can get one by inheriting."""
        held: Held | None = self
        while held is not None:
            if any(ref() is not None for ref in held.refs):
                return True
            held = None if held.cut else held.origin
        return False

    @property
    def source(self) -> Held:
        """What knows what it has open: itself, or the first of those that it is a copy of."""
        held = self
        while held.file is None and held.origin is not None:
            held = held.origin
        return held


class Numbers:
    """The numbers of a table."""

    def __init__(self) -> None:
        """None is known."""
        #: What has handles, by number.
        self.held: dict[int, Held] = {}
        #: What has lost a handle, and was not looked at since.
        self.lost: deque[Held] = deque()
        #: What is open and nobody can name any more.
        self.garbage: dict[int, Held] = {}
        #: What the table began with, as a copy of another one.
        self.inherited: dict[int, Held] = {}
        #: Whether handles are made of what is closed already.
        self.bygone: bool = False

    def hold(self, number: int) -> Held:
        """What a handle of a number that is open holds."""
        held = self.held.get(number)
        if held is None:
            if self.lost:
                self.look()
            held = self.garbage.pop(number, None)
            self.held[number] = held = Held(number, self.lost) if held is None else held
        return held

    def renew(self, number: int, maker: Task) -> None:
        """A call has made this number: whatever it meant before, it means something else now."""
        if self.lost:
            self.look()
        if number in self.held:
            self.end(number)
        if self.garbage:
            self.garbage.pop(number, None)
        if self.inherited:
            self.inherited.pop(number, None)
        self.held[number] = Held(number, self.lost, maker)

    def end(self, number: int) -> None:
        """It is closed, or about to be: no handle of it is valid."""
        held = self.held.pop(number, None)
        if held is not None:
            for handle in held.handles():
                handle.valid = False
            held.refs = []
        self.inherited.pop(number, None)

    def look(self) -> None:
        """Find out what nobody can name any more."""
        while self.lost:
            try:
                held = self.lost.popleft()
            except IndexError:  # another thread was faster
                return
            number = held.number
            if self.held.get(number) is not held or any(ref() is not None for ref in held.refs):
                continue
            held.refs = []
            if held.collected or number > _LAST_STANDARD:
                del self.held[number]
            self._discard(held)

    def look_at_inherited(self) -> None:
        """The same for what was inherited and whose original nobody can name any more."""
        for number, origin in list(self.inherited.items()):
            if number not in self.held and origin.collected and not origin.reachable():
                self._discard(self._copy(origin))

    def give_up_inherited(self) -> None:
        """Nothing more is inherited."""
        for number, origin in list(self.inherited.items()):
            if number not in self.held:
                held = self._copy(origin)
                held.cut = True
                self._discard(held)
        self.inherited.clear()
        for held in self.held.values():
            held.cut = True

    def _discard(self, held: Held) -> None:
        """Nobody has a handle of it."""
        if held.kept or not held.collected:
            self.inherited.pop(held.number, None)  # it stays as it is
        elif not held.reachable():
            self.inherited.pop(held.number, None)
            self.garbage[held.number] = held

    def _copy(self, origin: Held) -> Held:
        held = Held(origin.number, self.lost)
        held.collected, held.kept, held.origin = origin.collected, origin.kept, origin
        return held

    def named(self) -> dict[int, Held]:
        """What a copy of the table is to keep: what has handles, and standard input and output."""
        if self.held.keys() == _ONLY_STANDARD:
            return self.held.copy()
        found: dict[int, Held] = {}
        for number, held in self.held.items():
            if number <= _LAST_STANDARD:
                found[number] = held
                continue
            for ref in held.refs:
                if ref() is not None:
                    found[number] = held
                    break
        for number in _STANDARD:
            if number not in found:
                found[number] = self.hold(number)
        return found

    def move(self, task: Task, copy: Numbers) -> None:
        """Have a task's handles mean the same numbers of a copy of the table, which it has now."""
        for number, held in list(self.held.items()):
            mine = [handle for handle in held.handles() if handle.task is task]
            for handle in mine:
                held.remove(handle)
                if number not in copy.held:
                    copy.held[number] = copy._copy(held)
                handle.rebind(copy.held[number])
            if mine and not held.handles():
                self.lost.append(held)

    def inherit(self, original: Held) -> bool:
        """Whether the same number is a copy of what is held in another table; if so it is held."""
        number = original.number
        held: Held | None = self.inherited.get(number)
        origin = held
        while held is not None and held is not original:
            held = held.origin
        if held is None or origin is None:
            return False
        if number not in self.held:
            self.held[number] = self._copy(origin)
        return True

    def is_untidy(self) -> bool:
        """Whether there is so much to be closed that it pays."""
        return len(self.garbage) + len(self.lost) >= _ENOUGH

    def take_garbage(self) -> dict[int, Held]:
        """What is to be closed; who takes it closes it, or puts it back."""
        if self.lost:
            self.look()
        if self.inherited:
            self.look_at_inherited()
        found, self.garbage = self.garbage, {}
        return found

    @contextlib.contextmanager
    def making_bygones(self) -> Generator[None]:
        """In the block handles are made of what is closed already, and may be something else."""
        self.bygone = True
        try:
            yield
        finally:
            self.bygone = False

    def put_back(self, garbage: Iterable[Held]) -> None:
        """It was not closed after all."""
        for held in garbage:
            if held.number not in self.held:
                self.garbage[held.number] = held

    def disarm(self) -> None:
        """Take note that it is another process's: nothing of it is ever to be closed."""
        self.lost = deque(maxlen=0)
        self.garbage.clear()
        self.inherited.clear()
        for held in self.held.values():
            held.lost = self.lost

    def __iter__(self) -> Iterator[int]:
        """The numbers that have handles."""
        return iter([number for number, held in self.held.items() if held.handles()])
