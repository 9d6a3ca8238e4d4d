"""The POSIX shell that a board runs for us: dash, bash or busybox. Every path goes through shlex.quote.

In the board's folder: bundle/ and what else was sent; started/ (made by the first start only), pid (process and boot),
progress (the runner's stderr), rc (its exit code), report.json.
"""

from __future__ import annotations

import shlex

# Python 2 must be able to say that it is too old
VERSION = (
    "import sys; v = sys.version_info\n"
    "lacking = []\n"
    "if v >= (3, 6):\n"
    "    from importlib.util import find_spec\n"
    "    lacking = [n for n in sys.argv[1:] if find_spec(n) is None]\n"
    "print(' '.join([str(v[0]), str(v[1])] + lacking))"
)
HASH = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
BOOT = "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"  # a process number means nothing after a restart
ALIVE = f'read -r pid boot 2>/dev/null <pid && [ "$boot" = "{BOOT}" ] && kill -0 "$pid" 2>/dev/null'


def greet(python: str, needed: tuple[str, ...]) -> str:
    """Answers `python=major minor missing...` (empty: no such interpreter) and `rsync=yes` or no."""
    return (
        f'found=$({shlex.join([python, "-c", VERSION, *needed])} </dev/null 2>/dev/null); echo "python=$found"\n'
        "if command -v rsync >/dev/null 2>&1; then echo rsync=yes; else echo rsync=no; fi"
    )


def make(folder: str) -> str:
    """Makes the folder for this user alone; that it is there already, and ours, is no error."""
    quoted = shlex.quote(folder)
    made = f"mkdir -m 700 {quoted} || {stands(folder)} || exit 1\nmkdir -p {quoted}/bundle/runner"
    return f"LC_ALL=C; export LC_ALL\n{made}"


def stands(folder: str) -> str:
    """Ends with 0 when the folder is there and belongs to this user."""
    return f"[ -d {shlex.quote(folder)} ] && [ -O {shlex.quote(folder)} ]"


def started(folder: str) -> str:
    """Ends with 0 when the runner was started in the folder."""
    return f"[ -s {shlex.quote(folder)}/pid ]"


def start(folder: str, python: str, options: list[str]) -> str:
    """Starts the runner apart from the session, so that a cut link does not end it; the first call alone does."""
    run = shlex.join([python, "-m", "runner", "--out", "../report.json", *options])
    inner = (
        "mkdir ../started 2>/dev/null || exit 0\n"
        f'echo "$$ {BOOT}" >../pid\n'
        "unset PYTHONPATH; PYTHONDONTWRITEBYTECODE=1; export PYTHONDONTWRITEBYTECODE\n"
        "trap 'kill \"$runner\" 2>/dev/null' TERM\n"
        f"{run} </dev/null >/dev/null 2>../progress &\n"
        'runner=$!\nwait "$runner"\necho $? >../rc.part && mv ../rc.part ../rc'
    )
    return (
        f"cd {shlex.quote(folder + '/bundle')} || exit 66\n"
        f"nohup $(command -v setsid) sh -c {shlex.quote(inner)} </dev/null >/dev/null 2>&1 &\n"
        "for _ in 1 2 3 4 5 6 7 8 9 10; do [ -s ../pid ] && exit 0; sleep 0.2 2>/dev/null || sleep 1; done\n"
        "[ -s ../pid ] || exit 67"
    )


def look(folder: str, offset: int) -> str:
    """Answers `running`, `done CODE` or `gone`, then the runner's progress from that byte on."""
    return (
        f"cd {shlex.quote(folder)} || exit 66\n"
        f"state=gone; if {ALIVE}; then state=running; fi\n"  # before rc is looked for: it may end in between
        'if [ -f rc ]; then state="done $(cat rc)"; fi\n'
        f'echo "$state"; if [ -f progress ]; then tail -c +{offset + 1} progress; fi'
    )


def fetch(folder: str, python: str, name: str = "report.json") -> str:
    """Answers the sha256 of a file in the folder, then the file."""
    hashed = f"{shlex.quote(python)} -c {shlex.quote(HASH)} {shlex.quote(name)} </dev/null"
    return f"cd {shlex.quote(folder)} && {hashed} && cat {shlex.quote(name)}"


def end(folder: str) -> str:
    """Ends the runner if it still runs."""
    return (
        f"cd {shlex.quote(folder)} 2>/dev/null || exit 0\n"
        f'if [ ! -f rc ] && {ALIVE}; then kill "$pid"; '
        "for _ in 1 2 3 4 5 6 7 8 9 10; do [ -f rc ] && break; sleep 0.2 2>/dev/null || sleep 1; done; fi"
    )


def clear(folder: str) -> str:
    """Ends the runner if it still runs and removes the folder."""
    return f"{end(folder)}\ncd / && rm -rf -- {shlex.quote(folder)}; [ ! -e {shlex.quote(folder)} ]"
