"""The seccomp filter of a job, assembled as classic BPF: what no program in a jail needs.

System calls newer than the table answer "not implemented", so that a new kernel opens nothing.
`program("x86_64")` gives the bytes. Numbers: the kernel's tables of system calls.
"""

from __future__ import annotations

import struct

# name: (x86_64, aarch64); None where the architecture lacks it
DENIED: dict[str, tuple[int | None, int | None]] = {
    # keyrings, tracing, other processes' memory and descriptors
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # memory that no limit counts: anonymous files and System V segments and queues
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "vmsplice": (278, 75),
    "io_setup": (206, 0),
    # large attack surface, nothing a job needs
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "_sysctl": (156, None),
    "lookup_dcookie": (212, 18),
    "syslog": (103, 116),
    "acct": (163, 89),
    "vhangup": (153, 58),
    # the machine: clocks, names, modules, swap, restart
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
}
NEWEST = 450  # set_mempolicy_home_node; the same number on both
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
CALLS = {  # those looked at by their arguments
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "bind": (49, 200),
    "ioctl": (16, 29),
    "personality": (135, 92),
    "prlimit64": (302, 261),
}
NAMESPACES = 0x7E020080  # every CLONE_NEW flag
TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
PERM, NOSYS, NO_FAMILY = 1, 38, 97
LOAD, EQUAL, GREATER, AT_LEAST, BITS, RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16

Instruction = tuple[int, int, int, int]


def _refuse(code: int) -> Instruction:
    return (RETURN, 0, 0, ERRNO | code)


def _argument(index: int) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS_AT + 8 * index)


def _only(index: int, values: tuple[int, ...], code: int) -> list[Instruction]:
    """Allow where the argument is one of `values`, else fail with `code`."""
    tests = [(EQUAL, len(values) - i, 0, v) for i, v in enumerate(values)]
    return [_argument(index), *tests, _refuse(code), (RETURN, 0, 0, ALLOW)]


def _never(index: int, values: tuple[int, ...], code: int) -> list[Instruction]:
    """Fail with `code` where the argument is one of `values`, else allow."""
    tests = [(EQUAL, len(values) - i, 0, v) for i, v in enumerate(values)]
    return [_argument(index), *tests, (RETURN, 0, 0, ALLOW), _refuse(code)]


def _ranges(blocks: dict[int, list[Instruction]]) -> list[tuple[int, int, list[Instruction]]]:
    """Neighbouring numbers with the same block, as (first, last, block)."""
    found: list[tuple[int, int, list[Instruction]]] = []
    for number in sorted(blocks):
        if found and found[-1][1] == number - 1 and found[-1][2] == blocks[number]:
            found[-1] = (found[-1][0], number, blocks[number])
        else:
            found.append((number, number, blocks[number]))
    return found


def _search(ranges: list[tuple[int, int, list[Instruction]]]) -> list[Instruction]:
    """Jump to the block of the number in the accumulator; allow where it has none.

    A search by halves and short: the kernel compiles the filter for each job, and runs it once for
    every number.
    """
    if not ranges:
        return [(RETURN, 0, 0, ALLOW)]
    middle = len(ranges) // 2
    first, last, block = ranges[middle]
    below, above = _search(ranges[:middle]), _search(ranges[middle + 1 :])
    if first == last:
        own = [(EQUAL, 0, len(block), first), *block]
    else:
        own = [(GREATER, len(block), 0, last), *block]
    return [(AT_LEAST, 0, len(own) + len(above), first), *own, *above, *below]


def program(machine: str, sockets: bool) -> bytes:
    """The filter for an architecture as `platform.machine()` names it.

    Without `sockets` a job has pairs of connected ones only, and cannot give one a name: then it
    can change nothing in its network namespace. Raises KeyError for an unknown architecture.
    """
    column, audit = ARCHITECTURES[machine]
    call = {name: numbers[column] for name, numbers in CALLS.items()}
    denied = [numbers[column] for numbers in DENIED.values()]
    blocks = {number: [_refuse(PERM)] for number in denied if number is not None}
    blocks[call["clone3"]] = [_refuse(NOSYS)]  # its flags are out of a filter's sight
    flags = [_argument(0), (BITS, 0, 1, NAMESPACES), _refuse(PERM), (RETURN, 0, 0, ALLOW)]
    blocks[call["clone"]] = flags
    if sockets:
        blocks[call["socket"]] = _only(0, (1, 2, 10), NO_FAMILY)  # unix, inet, inet6
    else:
        blocks[call["socket"]] = [_refuse(NO_FAMILY)]
        blocks[call["bind"]] = [_refuse(PERM)]
    blocks[call["socketpair"]] = _only(0, (1,), NO_FAMILY)
    blocks[call["ioctl"]] = _never(1, TERMINAL_TRICKS, PERM)
    blocks[call["personality"]] = _only(0, (0, 0xFFFFFFFF), PERM)
    blocks[call["prlimit64"]] = _only(0, (0,), PERM)  # of itself, not of its first process
    code: list[Instruction] = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (EQUAL, 1, 0, audit),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        (GREATER, 0, 1, NEWEST),  # also every call of the x32 interface
        _refuse(NOSYS),
        *_search(_ranges(blocks)),
    ]
    return b"".join(struct.pack("HBBI", *each) for each in code)
