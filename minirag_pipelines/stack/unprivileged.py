"""A program run by root under another account: `python -I -S unprivileged.py UID GID FOLDER PROGRAM ARGUMENT…`.

PostgreSQL refuses to run as root. The account may not be able to pass through the folders above the data or above the
program (`/root` is closed to others); rather than opening those folders, the program then keeps the one capability
that lets it pass. It runs as a file, without this package, because it must start in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
LINUX_CAPABILITY_VERSION_3 = 0x20080522
# Reading and passing through folders is enough; containers often grant only the wider one.
CAP_DAC_READ_SEARCH = 2
CAP_DAC_OVERRIDE = 1


def main(arguments: list[str]) -> None:
    uid, gid, folder, *command = arguments
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc:
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    try:
        os.setgroups([int(gid)])
        os.setgid(int(gid))
        os.setuid(int(uid))
    except OSError as error:
        sys.exit(f"can't run as user {uid}: {error}")
    _run_if_reachable(command, folder)
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        if libc and _keep(libc, capability):
            _run_if_reachable(command, folder)
    sys.exit(
        f"user {uid}, under which PostgreSQL runs because it refuses to run as root, can't reach "
        f"{_obstacle(command[0]) or _obstacle(folder) or folder}, and no capability to pass through was granted; "
        "set MINIRAG_HOME to a folder that every user can pass through"
    )


def _run_if_reachable(command: list[str], folder: str) -> None:
    """Become the program. Returns when the folder or the program can't be reached."""
    try:
        with os.scandir(folder):
            pass
        os.execv(command[0], command)  # noqa: S606 - replacing this process is the point
    except PermissionError:
        pass  # the caller has another way, or says so


def _keep(libc: ctypes.CDLL, capability: int) -> bool:
    """Hold a capability, now and in the programs started from here. False when root itself does not have it."""
    header = (ctypes.c_uint32 * 2)(LINUX_CAPABILITY_VERSION_3, 0)
    # Effective, permitted, inheritable of capabilities 0 to 31, then the same of the rest.
    held = (ctypes.c_uint32 * 6)()
    libc.capget(header, held)
    bit = 1 << capability
    wanted = (ctypes.c_uint32 * 6)(bit, held[1], bit, 0, held[4], 0)
    # An ambient capability of an earlier attempt goes with its inheritable bit.
    if libc.capset(header, wanted) != 0:
        return False
    raised: int = libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    return raised == 0


def _obstacle(path: str) -> str | None:
    """The outermost folder on the way that stops us."""
    above = ""
    for part in path.split("/")[1:-1]:
        above += f"/{part}"
        if not os.access(above, os.X_OK):
            return above
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
