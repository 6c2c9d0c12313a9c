"""What concerns network interfaces, against the headers, the kernel and the standard library."""

from __future__ import annotations

import socket
import struct
import subprocess
from pathlib import Path

import pytest

from rsyscall import local_process
from rsyscall.abi import ABI, NATIVE
from rsyscall.fcntl import O
from rsyscall.net.if_ import IFF, SIOC, TUNSETIFF, Ifreq
from rsyscall.netinet.in_ import SockaddrIn
from rsyscall.sched import CLONE
from rsyscall.sys.socket import AF, SOCK


def test_the_numbers_are_those_of_the_headers() -> None:
    lines = ["#include <net/if.h>", "#include <sys/ioctl.h>", "#include <linux/if_tun.h>"]
    values: list[tuple[str, int]] = []
    values += [(f"SIOC{name}", value) for name, value in SIOC.__members__.items()]
    values += [(f"IFF_{name}", value) for name, value in IFF.__members__.items() if value]
    values += [("TUNSETIFF", TUNSETIFF), ("sizeof(struct ifreq)", Ifreq.sizeof())]
    lines += [f'_Static_assert({name} == {int(value)}, "{name}");' for name, value in values]
    command = ["gcc", "-std=gnu11", "-x", "c", "-fsyntax-only", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True)


def test_one_thing_at_a_time() -> None:
    ifreq = Ifreq("eth0", flags=IFF.UP | IFF.RUNNING)
    assert (ifreq.name, ifreq.flags) == ("eth0", IFF.UP | IFF.RUNNING)
    ifreq.ifindex = 7
    assert ifreq.to_bytes() == struct.pack("=16si20x", b"eth0", 7)
    ifreq.addr = SockaddrIn(0, "10.0.0.1")
    again = Ifreq.from_bytes(ifreq.to_bytes())
    assert (again.name, again.addr) == ("eth0", SockaddrIn(0, "10.0.0.1"))
    assert repr(again).startswith("Ifreq('eth0', 0200")


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"^name: "):
        Ifreq("x" * 16)
    with pytest.raises(ValueError, match=r"^name: "):
        Ifreq().name = "a\0b"
    with pytest.raises(ValueError, match=r"^value: "):
        Ifreq(ifindex=2**31)
    with pytest.raises(ValueError, match=r"^addr, flags, ifindex: "):
        Ifreq("lo", flags=IFF.UP, ifindex=1)
    with pytest.raises(ValueError, match="family"):
        _ = Ifreq("lo").addr
    with pytest.raises(ValueError, match=r"^data: "):
        Ifreq.from_bytes(bytes(39))


def test_another_machine() -> None:
    big = ABI("other", "big", 4, 4)
    data = Ifreq("lo", ifindex=1, abi=big).to_bytes_for(big)
    assert data == struct.pack(">16si12x", b"lo", 1)
    assert Ifreq.from_bytes_for(data, big).ifindex == 1
    with pytest.raises(ValueError, match=r"^abi: "):
        Ifreq("lo", abi=big).to_bytes_for(NATIVE)


async def test_what_the_kernel_says() -> None:
    async with await local_process.socket(AF.INET, SOCK.DGRAM) as fd:
        for request in (SIOC.GIFINDEX, SIOC.GIFFLAGS, SIOC.GIFADDR):
            ptr = await local_process.ptr(Ifreq("lo"))
            await fd.ioctl(request, ptr)
            told = await ptr.read()
            assert told.name == "lo"
            if request == SIOC.GIFINDEX:
                assert told.ifindex == socket.if_nametoindex("lo")
            elif request == SIOC.GIFFLAGS:
                assert IFF.UP | IFF.LOOPBACK in told.flags
            else:
                assert str(told.addr.addr) == "127.0.0.1"


@pytest.mark.privileged
@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="/dev/net/tun is missing")
async def test_an_interface_of_our_own() -> None:
    async with (
        await local_process.clone(CLONE.NEWNET) as child,
        await child.task.open("/dev/net/tun", O.RDWR) as tun,
        await child.socket(AF.INET, SOCK.DGRAM) as fd,
    ):
        ptr = await child.ptr(Ifreq("mine%d", flags=IFF.TUN | IFF.NO_PI))
        await tun.ioctl(TUNSETIFF, ptr)
        name = (await ptr.read()).name
        assert name == "mine0"
        up = await child.ptr(Ifreq(name, flags=IFF.UP))
        await fd.ioctl(SIOC.SIFFLAGS, up)
        flags = await child.ptr(Ifreq(name))
        await fd.ioctl(SIOC.GIFFLAGS, flags)
        assert IFF.UP | IFF.POINTOPOINT in (await flags.read()).flags
