"""Programs that try to get out of a jail. Each prints a line that begins with ESCAPED if it does.

`OUTSIDE` names those that do get out when run without walls: the control of the test.
"""

from __future__ import annotations

PROLOGUE = """
import ctypes, errno, os, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def escaped(what): print("ESCAPED", what, flush=True)
def attempt(what, function):
    try:
        value = function()
    except Exception as error:
        return
    if value is not None and value is not False:
        escaped(f"{what}: {value!r:.200}")
def call(what, number, *args, expect=(errno.EPERM, errno.ENOSYS, errno.EACCES)):
    ctypes.set_errno(0)
    if libc.syscall(number, *args) >= 0 or ctypes.get_errno() not in expect:
        escaped(f"{what}: errno {ctypes.get_errno()}")
"""

ESCAPES = {
    "network": """
port = int(sys.argv[1])
def connect(family, address):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(2)
    s.connect(address)
    return s.recv(10)
attempt("the host's loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
attempt("an address", lambda: connect(socket.AF_INET, ("1.1.1.1", 80)))
attempt("abstract socket", lambda: connect(socket.AF_UNIX, "\\0puna-host"))
for family in (16, 17, 40):  # netlink, packet, vsock
    attempt(f"family {family}", lambda: socket.socket(family, socket.SOCK_RAW))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
if interfaces != ["lo"]: escaped(f"interfaces {interfaces}")
""",
    "host files": """
secret = sys.argv[1]
for path in (secret, "/proc/1/root" + secret, "/proc/self/root" + secret, "/proc/self/cwd/../.." + secret,
             "/box/../" + secret, "/dev/../" + secret):
    attempt(path, lambda: open(path).read())
for path in ("/etc/shadow", "/root" + "/.bashrc", "/home", "/var", "/mnt", "/opt", "/srv", "/boot", "/sys",
             "/proc/kcore"):
    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(10))
for path in ("/usr/bin/evil", "/etc/passwd", "/run/evil", "/evil", "/dev/evil", "/proc/sys/kernel/hostname",
             "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", sys.base_prefix + "/evil"):
    attempt("write " + path, lambda: open(path, "w").write("x"))
""",
    "other processes": """
pids = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())
if pids != [os.getpid()]: escaped(f"sees {pids}")
victim = int(sys.argv[1])
attempt("host process", lambda: open(f"/proc/{victim}/cmdline").read() or None)
call("ptrace", 101, 16, 1, 0, 0)
call("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
call("pidfd_getfd", 438, 3, 3, 0)
for name in ("environ", "mem", "maps", "fd", "cwd", "root", "exe"):
    if os.getpid() == 1: break  # this is the first process itself
    attempt("supervisor's " + name, lambda: os.listdir(f"/proc/1/{name}") if name == "fd"
            else os.readlink(f"/proc/1/{name}") if name in ("cwd", "root", "exe")
            else open(f"/proc/1/{name}", "rb").read(1))
""",
    "signals": """
victim = int(sys.argv[1])
for signum in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
    attempt(f"{signum} to the host", lambda: os.kill(victim, signum) or True)
    for pid in (1, -1):  # allowed, and of no effect on the supervisor
        if signum != signal.SIGSTOP and pid == -1:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            continue
        try:
            os.kill(pid, signum)
        except OSError:
            pass
""",
    "setuid": """
for number, name in ((105, "setuid"), (106, "setgid"), (113, "setreuid"), (117, "setresuid")):
    call(name, number, 0, 0, 0, expect=(errno.EPERM, errno.EINVAL))
if os.getuid() == 0 or os.geteuid() == 0: escaped("root")
attempt("setgroups", lambda: os.setgroups([0]) or True)
os.environ["PATH"] = "/usr/bin:/bin"
for program in ("su", "mount", "passwd", "newgrp", "chsh", "sudo", "pkexec"):
    for folder in ("/usr/bin/", "/bin/"):
        path = folder + program
        if os.path.exists(path) and not os.statvfs(path).f_flag & os.ST_NOSUID:
            escaped(path + " may be setuid")
open("mine", "w").write("#!/bin/sh\\nid -u\\n")
attempt("chown", lambda: os.chown("mine", 0, 0) or True)
os.chmod("mine", 0o6755)
if not os.statvfs(".").f_flag & os.ST_NOSUID: escaped("setuid files count here")
status = open("/proc/self/status").read()
for line in ("CapInh:\\t0000000000000000", "CapPrm:\\t0000000000000000", "CapEff:\\t0000000000000000",
             "CapAmb:\\t0000000000000000", "NoNewPrivs:\\t1", "Seccomp:\\t2"):
    if line not in status: escaped("not " + line)
""",
    "namespaces": """
for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
    call(f"unshare {flag:x}", 272, flag)
    call(f"clone {flag:x}", 56, flag | 17, 0, 0, 0, 0)
call("clone3", 435, ctypes.create_string_buffer(88), 88)
for name in ("mnt", "pid", "net", "user", "ipc", "uts"):
    def join(name=name):
        fd = os.open(f"/proc/1/ns/{name}", os.O_RDONLY)
        if libc.setns(fd, 0) == 0: return True
    attempt("setns " + name, join)
call("mount", 165, b"none", b"/box", b"tmpfs", 0, 0)
call("umount", 166, b"/proc", 2)
call("pivot_root", 155, b".", b".")
call("chroot", 161, b"/box")
call("fsopen", 430, b"tmpfs", 0)
call("open_tree", 428, -100, b"/", 0)
call("move_mount", 429, -100, b"/box", -100, b"/usr", 0)
call("mount_setattr", 442, -100, b"/", 0, 0, 0)
""",
    "kernel": """
call("add_key", 248, b"user", b"k", b"v", 1, -3)
call("request_key", 249, b"user", b"k", 0, -3)
call("keyctl", 250, 0, -3, 0)
call("bpf", 321, 0, 0, 0)
call("perf_event_open", 298, 0, 0, -1, -1, 0)
call("userfaultfd", 323, 0)
call("io_uring_setup", 425, 1, ctypes.create_string_buffer(120))
call("init_module", 175, 0, 0, b"")
call("kexec_load", 246, 0, 0, 0, 0)
call("reboot", 169, 0xfee1dead, 672274793, 0, 0)
call("swapon", 167, b"x", 0)
call("syslog", 103, 3, 0, 0)
call("open_by_handle_at", 304, -100, 0, 0)
call("iopl", 172, 3)
call("personality", 135, 0x0400000)
call("memfd_create", 319, b"x", 0)
call("shmget", 29, 1, 4096, 0o1777)
call("x32", 0x40000000 + 39)
call("a call of the future", 470)
if os.path.exists("/proc/keys"):
    keys = open("/proc/keys").read()
    if keys: escaped("keys " + keys)
""",
    "clock": """
now = time.time()
attempt("clock_settime", lambda: time.clock_settime(time.CLOCK_REALTIME, 0) or True)
call("settimeofday", 164, struct.pack("qq", 0, 0), 0)
call("adjtimex", 159, ctypes.create_string_buffer(208), expect=(errno.EPERM,))
call("clock_adjtime", 305, 0, ctypes.create_string_buffer(208), expect=(errno.EPERM,))
if abs(time.time() - now) > 100: escaped("the clock moved")
attempt("real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)) or True)
attempt("nicer", lambda: os.setpriority(os.PRIO_PROCESS, 0, -5) or True)
import resource
for name in ("CPU", "AS", "NPROC", "FSIZE", "NOFILE"):
    what = getattr(resource, "RLIMIT_" + name)
    attempt("raise " + name, lambda: resource.setrlimit(what, (1 << 40, 1 << 40)) or True)
""",
    "devices": """
expected = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd",
            "stdin", "stdout", "stderr", "core"}
extra = set(os.listdir("/dev")) - expected
if extra: escaped(f"devices {extra}")
import stat
for kind, device in ((stat.S_IFBLK, os.makedev(254, 0)), (stat.S_IFCHR, os.makedev(1, 1)), (stat.S_IFCHR, os.makedev(5, 1))):
    attempt(f"mknod {device}", lambda: os.mknod("node", kind | 0o666, device) or True)
attempt("tty", lambda: open("/dev/tty", "w"))
for path in ("/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/pts/0"):
    attempt(path, lambda: os.open(path, os.O_RDWR))
if os.path.isdir("/sys") and os.listdir("/sys"): escaped("/sys")
attempt("write in /dev", lambda: open("/dev/x", "w"))
attempt("remove a device", lambda: os.unlink("/dev/null") or True)
""",
    "paths": """
secret = sys.argv[1]
os.symlink(secret, "link")
os.symlink("/etc", "dir")
os.symlink("../" * 20 + secret, "up")
os.mkdir("d")
os.symlink("..", "d/up")
attempt("symlink", lambda: open("link").read())
attempt("hard link", lambda: os.link("/etc/passwd", "hard") or True)
name = "a" * 255
os.mkdir(name)
open("new\\nline", "w").write("x")
open(b"bad\\xff", "w").write("x")
""",
}
# What these do, they can do when nothing stops them; the others harm the machine or need root.
OUTSIDE = ("network", "host files", "other processes", "paths")

# Programs that use up whatever there is.
BOMBS = {
    "processes": """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "memory": """
x = []
while True:
    x.append(bytearray(b"1" * (1 << 20)))
""",
    "disk": """
f = open("x", "wb")
while True:
    f.write(bytes(1 << 20))
    f.flush()
""",
    "inodes": """
i = 0
while True:
    i += 1
    open(f"f{i}", "w").close()
""",
    "folders": """
import os
while True:
    os.mkdir("d")
    os.chdir("d")
""",
    "output": """
while True:
    print("x" * 1000000)
""",
    "errors": """
import sys
while True:
    sys.stderr.write("x" * 100000)
""",
    "sockets": """
import socket
kept = []
while True:
    kept += socket.socketpair()
""",
    "threads": """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(99,)).start()
""",
    "stack": """
import sys
def f(): return f()
sys.setrecursionlimit(10**9)
f()
""",
    "stopped": """
import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
""",
    "deaf": """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    time.sleep(1)
""",
    "orphans": """
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(99)
        os._exit(0)
time.sleep(99)
""",
}

# Programs that hide what they use, with the limits they must not get past: name -> (source, limits,
# the reason they end for).
HIDING = {
    "memory in sockets": (
        """
import os, socket, time
kept = []
for _ in range(5):
    if os.fork() == 0: break
for _ in range(100):
    pair = socket.socketpair()
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    pair[0].setblocking(False)
    kept.append(pair)
    try:
        while True: pair[0].send(bytes(4000))
    except BlockingIOError:
        pass
time.sleep(20)
""",
        {"memory_mb": 100, "wall_s": 15},
        "memory",
    ),
    "memory that is shared and let go": (
        """
import mmap, os, time
for _ in range(4):
    if os.fork() == 0: break
m = mmap.mmap(-1, 90 << 20)
for at in range(0, 90 << 20, 4096): m[at] = 1
m.madvise(mmap.MADV_DONTNEED)
time.sleep(20)
""",
        {"memory_mb": 150, "wall_s": 15},
        "memory",
    ),
    "memory behind a first thread that ended": (
        """
import ctypes, os, threading, time
for _ in range(4):
    if os.fork() == 0: break
def hold():
    x = bytearray(b"1" * (60 << 20))
    time.sleep(20)
threading.Thread(target=hold).start()
time.sleep(0.5)
ctypes.CDLL(None).syscall(60, 0)
""",
        {"memory_mb": 250, "wall_s": 15},
        "memory",
    ),
    "time of children that nobody waits for": (
        """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.time() + 12
while time.time() < end:
    if os.fork() == 0:
        t = time.process_time()
        while time.process_time() - t < 0.4: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
""",
        {"cpu_s": 1, "wall_s": 15},
        "cpu",
    ),
    "pages spliced into pipes": (
        """
import ctypes
if ctypes.CDLL(None, use_errno=True).syscall(278, 1, 0, 0, 0) < 0 and ctypes.get_errno() == 1:
    raise SystemExit(9)
""",
        {},
        "exit 9",
    ),
}
# Programs that turn on what supervises them; run as commands, they have such a process.
TURNING = """
import os, resource, signal
for number in range(1, 65):
    try:
        os.kill(1, number)
    except OSError:
        pass
for what in ("NOFILE", "AS", "CPU", "FSIZE"):
    try:
        resource.prlimit(1, getattr(resource, "RLIMIT_" + what), (0, 0))
        print("ESCAPED prlimit", what)
    except OSError:
        pass
for path in ("/box/out", "/box/out/stdout", "/proc/1/fd", "/proc/1/mem"):
    try:
        os.chmod(path, 0o777)
        print("reached", path)
    except OSError:
        pass
r = None
try:
    r = os.open("/proc/self/fd/1", os.O_RDONLY | os.O_NONBLOCK)
except OSError:
    pass
for _ in range(1000):
    os.write(2, b"x")
    if r is not None:
        try: os.read(r, 10)
        except BlockingIOError: pass
os.closerange(0, 100)
"""
