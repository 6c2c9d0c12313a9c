"""The pytest plugin, in projects of their own that have installed the package."""

from __future__ import annotations

import pytest

#: As a project would have it that uses pytest-trio with its marker, and not for every coroutine.
USES = """
import os
import pytest
import rsyscall

@pytest.mark.trio
async def test_process(rsyscall_process):
    assert isinstance(rsyscall_process, rsyscall.Process)
    assert await rsyscall_process.task.getppid() == rsyscall.local_process.pid

@pytest.mark.trio
async def test_pair(rsyscall_pair):
    assert await rsyscall_pair.task.getpid() == rsyscall.local_process.pid

@pytest.mark.trio
async def test_both(rsyscall_process, rsyscall_pair):
    assert rsyscall_process.pid != rsyscall_pair.pid

def test_no_child_is_left():
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *args, timeout=60)


def test_the_fixtures_are_there_without_any_configuration(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES)
    run(pytester).assert_outcomes(passed=4)


def test_nothing_happens_in_a_test_that_does_not_ask(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os

        def test_plain(request):
            assert not [name for name in request.fixturenames if "rsyscall" in name]
            assert os.listdir("/proc/self/task") == [str(os.getpid())]
        """
    )
    run(pytester, "-W", "error").assert_outcomes(passed=1)


@pytest.fixture
def without_trio(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Every interpreter that is started from now on lacks pytest-trio."""
    package = pytester.mkdir("blocked") / "pytest_trio"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:trio")
    return pytester


def test_without_pytest_trio_the_plugin_loads_and_plain_tests_run(
    without_trio: pytest.Pytester,
) -> None:
    without_trio.makepyfile(
        """
        import pytest

        def test_plain():
            with pytest.raises(ImportError):
                import pytest_trio
            import rsyscall.testing
        """
    )
    run(without_trio, "-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize("name", ["rsyscall_process", "rsyscall_pair"])
def test_without_pytest_trio_a_fixture_says_what_it_needs(
    without_trio: pytest.Pytester, name: str
) -> None:
    without_trio.makepyfile(f"def test_uses({name}): pass")
    result = run(without_trio)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [f"*the fixture {name} needs pytest-trio (pip install pytest-trio)*"]
    )
