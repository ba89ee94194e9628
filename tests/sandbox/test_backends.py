"""What every backend does alike: files, exits, streams, limits."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from processes import marked, until

from puna.sandbox import Answer, Job, Limits, Sandbox, SandboxError


def test_files_go_in_and_come_out(backend: Sandbox) -> None:
    job = Job(
        ["sh", "-c", "cat in/a > out; ./run; chmod 600 out; ln -s out link; mkfifo pipe; mkdir d"],
        files={"in/a": b"\xff\0x", "run": (b"#!/bin/sh\necho ran\n", 0o755)},
        outputs=["*"],
    )
    result = backend.run_now(job)
    assert result.ok, result
    assert result.stdout == b"ran\n"
    assert dict(result.files) == {
        "in/a": b"\xff\0x",
        "out": b"\xff\0x",
        "run": b"#!/bin/sh\necho ran\n",
    }
    assert result.modes == {"in/a": 0o644, "out": 0o600, "run": 0o755}
    only = backend.run_now(
        Job(["sh", "-c", "mkdir x; echo 1 > x/a.txt; echo 2 > b"], outputs=["x/*"])
    )
    assert dict(only.files) == {"x/a.txt": b"1\n"}


def test_exits_and_signals(backend: Sandbox) -> None:
    assert backend.run_now(Job(["sh", "-c", "exit 3"])).exit == 3
    assert backend.run_now(Job(["sh", "-c", "kill -TERM $$"])).exit == -15
    missing = backend.run_now(Job(["no-such-program"]))
    assert (missing.exit, missing.reason) == (127, "")
    assert b"no-such-program" in missing.stderr
    assert backend.run_now(Job.python("raise SystemExit(4)")).exit == 4
    said = backend.run_now(Job.python("raise SystemExit('why')"))
    assert (said.exit, said.stderr) == (1, b"why\n")


def test_python_source_is_a_main_module(backend: Sandbox) -> None:
    source = "import sys\nfrom helper import twice\nprint(__name__, sys.argv, twice(4))\n1 / 0\n"
    files = {"helper.py": b"def twice(x):\n    return 2 * x\n"}
    result = backend.run_now(Job.python(source, "one", files=files))
    assert result.stdout == b"__main__ ['main.py', 'one'] 8\n"
    assert result.exit == 1
    assert b'File "main.py", line 4' in result.stderr
    assert b"    1 / 0\n" in result.stderr
    broken = backend.run_now(Job.python("x = (\n"))
    assert b"SyntaxError" in broken.stderr
    thread = "import threading, time\nthreading.Thread(target=lambda: print('late')).start()"
    assert backend.run_now(Job.python(thread)).stdout == b"late\n"


def test_streams(backend: Sandbox) -> None:
    text = bytes(range(256)) * 8000  # more than a pipe holds
    limits = Limits(output_kb=5000)
    assert backend.run_now(Job(["cat"], stdin=text, limits=limits)).stdout == text
    assert backend.run_now(Job(["true"], stdin=text)).ok  # it never reads
    both = backend.run_now(Job(["sh", "-c", "echo out; echo err >&2; echo told >&3"], report=True))
    assert (both.stdout, both.stderr, both.report) == (b"out\n", b"err\n", b"told\n")
    none = backend.run_now(Job(["sh", "-c", "echo told >&3"]))
    assert none.exit != 0
    assert none.report == b""


def test_the_environment_is_what_was_given(
    backend: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "xyz")
    result = backend.run_now(Job(["env"], env={"MINE": "1"}))
    lines = result.stdout.decode().splitlines()
    assert "MINE=1" in lines
    assert "SECRET_TOKEN" not in result.stdout.decode()
    assert b"xyz" not in backend.run_now(Job.python("import os\nprint(os.environ)")).stdout


def test_time_is_limited(backend: Sandbox) -> None:
    asleep = backend.run_now(Job(["sleep", "600"], limits=Limits(wall_s=0.3)))
    assert (asleep.exit, asleep.reason) == (-9, "wall")
    busy = backend.run_now(Job.python("while True: pass", limits=Limits(cpu_s=1)))
    assert busy.reason == "cpu"
    assert 0.7 < busy.cpu_s < 3


def test_memory_of_a_process_is_limited(backend: Sandbox) -> None:
    source = "try:\n    x = bytearray(300 << 20)\nexcept MemoryError:\n    print('no')"
    assert backend.run_now(Job.python(source, limits=Limits(memory_mb=200))).stdout == b"no\n"
    assert backend.run_now(Job.python(source, limits=Limits(memory_mb=900))).stdout == b""


def test_output_is_limited(backend: Sandbox) -> None:
    endless = backend.run_now(Job(["yes"], limits=Limits(output_kb=10)))
    assert endless.reason == "output"
    assert endless.stdout == b"y\n" * 5120
    quick = backend.run_now(Job(["head", "-c", "30000", "/dev/zero"], limits=Limits(output_kb=10)))
    assert quick.reason == "output"
    assert len(quick.stdout) == 10240


def test_the_size_of_a_file_is_limited(backend: Sandbox) -> None:
    job = Job(["sh", "-c", "head -c 3000000 /dev/zero > big; echo $?"], limits=Limits(file_mb=1))
    assert backend.run_now(job).stdout != b"0\n"
    write = "    open('big', 'wb').write(b'x' * 3000000)\n"
    caught = f"try:\n{write}except OSError as e:\n    print(e.errno)"
    assert backend.run_now(Job.python(caught, limits=Limits(file_mb=1))).stdout == b"27\n"  # EFBIG


def test_closed_files_and_folders_come_back(backend: Sandbox) -> None:
    script = "mkdir d; echo 1 > d/a; echo 2 > b; chmod 0 b d/a d; mkfifo p; chmod 0 p"
    result = backend.run_now(Job(["sh", "-c", script], outputs=["*"]))
    assert dict(result.files) == {"d/a": b"1\n", "b": b"2\n"}


def test_hard_links_do_not_multiply_what_comes_back(backend: Sandbox) -> None:
    source = "import os\nopen('a', 'wb').write(bytes(1 << 20))\n"
    source += "for i in range(200):\n    os.link('a', f'b{i:03}')"
    result = backend.run_now(Job.python(source, outputs=["*"], limits=Limits(disk_mb=8)))
    assert result.reason == "disk"
    assert sum(map(len, result.files.values())) <= 8 << 20


def test_what_is_left_over_is_killed(backend: Sandbox) -> None:
    """A daemon that detached goes on writing; what comes back is of the moment it all ended."""
    mark = f"left-{os.getpid()}"
    daemon = f"(setsid sh -c 'while :; do date +%N > beat; done' {mark} &)\n"
    daemon += "while [ ! -s beat ]; do sleep 0.05; done; echo $$"
    result = backend.run_now(Job(["sh", "-c", daemon], outputs=["beat"]))
    assert result.ok
    assert "beat" in result.files
    until(lambda: not marked(mark))


def test_deep_folders_and_long_names_come_back_or_are_cut_off(backend: Sandbox) -> None:
    deep = "import os\nfor _ in range(900):\n    os.mkdir('d')\n    os.chdir('d')\nopen('f', 'w')"
    assert backend.run_now(Job.python(deep, outputs=["*"])).ok
    names = "import os\nn = b'\\xff' * 250\nfor i in range(10):\n    os.mkdir(n)\n    os.chdir(n)\n"
    names += "for i in range(900):\n    open(f'{i}', 'w')"
    long = backend.run_now(Job.python(names, outputs=["*"], limits=Limits(disk_mb=4)))
    assert (long.exit, long.reason) == (0, "disk"), long.reason
    assert 50 < len(long.files) < 400


def test_a_judge_has_room_for_all_that_a_job_may_leave(backend: Sandbox) -> None:
    source = "for i in range(990):\n    open(str(i), 'wb').truncate(60000)"
    result = backend.run_now(Job.python(source, outputs=["*"]))
    assert len(result.files) == 990
    judge = "open('own', 'w').write('x' * 1000)\nreport(len(os.listdir('job')))"
    assert backend.judge_now(judge, result, {"a/b/c": b"x" * 1000}) == 990


def test_a_broken_end_is_not_a_good_one(backend: Sandbox) -> None:
    for source in (
        "import sys\nsys.stderr = 5\n1 / 0",
        "class A:\n    def __str__(self): 1 / 0\nraise SystemExit(A())",
        "import os\nos.close(1)\nprint('x' * 100000)",
    ):
        assert not backend.run_now(Job.python(source)).ok


def test_python_as_programs_expect_it(backend: Sandbox) -> None:
    source = "import atexit\natexit.register(print, 'bye')\nprint(hash('a'))\nexit(3)"
    first, second = (backend.run_now(Job.python(source)) for _ in range(2))
    assert first.exit == 3
    assert first.stdout.endswith(b"bye\n")
    assert first.stdout == second.stdout
    command = Job(["python3", "-c", "print(hash('a'))"])
    assert backend.run_now(command).stdout == first.stdout.split()[0] + b"\n"


def test_a_large_program_may_start_others(backend: Sandbox) -> None:
    """Between vfork and exec a child is in its parent's memory, which counts once."""
    source = "import subprocess\nb = bytearray(b'1' * (300 << 20))\n"
    source += "for i in range(100): subprocess.run(['true'])\nprint('done')"
    result = backend.run_now(Job.python(source, limits=Limits(memory_mb=700)))
    assert (result.reason, result.stdout) == ("", b"done\n")


def test_interrupts_reach_programs(backend: Sandbox) -> None:
    shell = Job(["sh", "-c", "trap 'echo caught' INT; kill -INT $$; echo end"])
    assert backend.run_now(shell).stdout == b"caught\nend\n"
    source = "import signal\ntry:\n    signal.raise_signal(2)\nexcept KeyboardInterrupt:\n"
    source += "    print('interrupted')"
    assert backend.run_now(Job.python(source)).stdout == b"interrupted\n"


def test_a_deep_tree_is_judged_quickly(backend: Sandbox) -> None:
    source = "import os\nfor _ in range(90):\n    os.mkdir('d')\n    os.chdir('d')\n"
    source += "for i in range(850): open(f'{i}', 'w')"
    result = backend.run_now(Job.python(source, outputs=["*"]))
    assert len(result.files) == 850
    began = time.monotonic()
    assert backend.judge_now("report(1)", result) == 1
    assert time.monotonic() - began < 3


def test_orphans_do_not_use_up_the_processes(backend: Sandbox) -> None:
    script = "i=0; while [ $i -lt 100 ]; do (true &); i=$((i+1)); sleep 0.002; done; echo finished"
    assert backend.run_now(Job(["sh", "-c", script])).stdout == b"finished\n"


def test_a_large_answer_may_be_left_unread(backend: Sandbox) -> None:
    async def leave() -> bool:
        source = "open('x', 'wb').write(bytes(40 << 20))\nimport time; time.sleep(0.3)"
        task = asyncio.create_task(backend.run(Job.python(source, outputs=["x"])))
        await asyncio.sleep(0.75)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return (await backend.run(Job.python("pass"))).ok

    assert asyncio.run(leave())


def test_it_can_be_called_inside_an_event_loop(backend: Sandbox) -> None:
    async def inside() -> bytes:
        return backend.run_now(Job.python("print(1)")).stdout

    assert asyncio.run(inside()) == b"1\n"


def test_many_at_once(backend: Sandbox) -> None:
    async def all_of_them() -> list[bytes]:
        jobs = [Job.python(f"print({i})") for i in range(20)]
        return [r.stdout for r in await asyncio.gather(*map(backend.run, jobs))]

    assert asyncio.run(all_of_them()) == [f"{i}\n".encode() for i in range(20)]


def test_a_cancelled_job_is_killed(backend: Sandbox) -> None:
    async def cancel() -> bool:
        nap = Job(["sleep", "600"], limits=Limits(wall_s=600))
        tasks = [asyncio.create_task(backend.run(nap)) for _ in range(backend.at_once)]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(e) for e in ends] == [asyncio.CancelledError] * len(tasks)
        # the places, all of which were taken, are free again
        jobs = [Job.python("pass", limits=Limits(wall_s=20)) for _ in range(4)]
        return all(r.ok for r in await asyncio.gather(*map(backend.run, jobs)))

    assert asyncio.run(cancel())


CALLS = """
def f(x):
    if x == "stop": raise SystemExit(0)
    if x == "raise": raise ValueError("bad")
    if x == "set": return {1, 2}
    if x == "loop":
        while True: pass
    if x == "print": print("[]")
    if x == "leave":
        import os
        os._exit(0)
    return [x]
"""


def test_a_function_is_called_with_each_case(backend: Sandbox) -> None:
    cases = [(1,), ("é",), ("raise",), ("set",), ("print",), ("stop",), (None,)]
    answers = backend.call_now(CALLS, "f", cases)
    assert answers[:2] == [Answer([1]), Answer(["é"])]
    assert answers[2].error == "ValueError: bad"
    assert "not JSON" in answers[3].error
    assert answers[4:] == [Answer(["print"]), Answer(error="SystemExit: 0"), Answer([None])]
    ends = backend.call_now(CALLS, "f", [(1,), ("leave",), (2,)])
    assert ends == [Answer([1]), Answer(error="exit 0"), Answer(error="exit 0")]
    slow = backend.call_now(CALLS, "f", [(1,), ("loop",), (2,)], Limits(cpu_s=1))
    assert slow == [Answer([1]), *[Answer(error="ended by the limit of cpu")] * 2]
    absent = backend.call_now("x = 1", "f", [(1,)])
    assert absent == [Answer(error="KeyError: 'f'")]
    odd = "import os\nclass E(Exception):\n    def __str__(self): 1 / 0\n"
    odd += "def f(x):\n    if x == 1: raise E\n    os.write(3, x.encode())\n    return 5"
    lies = [(1,), ('{"error": [1]}\n',), ('{"error": ""}\n',), ("[]\n",)]
    assert backend.call_now(odd, "f", lies[:1]) == [Answer(error="E")]
    for lie in lies[1:]:
        assert backend.call_now(odd, "f", [lie]) == [Answer(error="malformed")]
    assert "SyntaxError" in backend.call_now("def f(:", "f", [(1,)])[0].error


def test_a_judge_sees_the_files_and_what_is_hidden(backend: Sandbox) -> None:
    result = backend.run_now(Job(["sh", "-c", "echo 42 > answer"], outputs=["answer"]))
    judge = "report({'right': open('job/answer').read() == open('judge/key').read()})"
    assert backend.judge_now(judge, result, {"key": b"42\n"}) == {"right": True}
    assert backend.judge_now(judge, result, {"key": b"41\n"}) == {"right": False}
    for broken, why in (("pass", "0 verdicts"), ("1/0", "ZeroDivisionError"), ("x", "NameError")):
        with pytest.raises(SandboxError, match=why):
            backend.judge_now(broken, result)
    with pytest.raises(SandboxError, match="2 verdicts"):
        backend.judge_now("report(1); report(2)", result)
