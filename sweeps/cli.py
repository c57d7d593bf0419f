"""The command `sweeps`: one subcommand per verb, made from dataclasses by tyro.

In: the command line. Out: a run's files; results on standard output, progress on standard error.
Exit codes: 0 done; 1 some trials failed; 2 input that cannot be used; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import tyro

from fulora import __version__
from fulora.errors import InputError
from sweeps import commands, remote
from sweeps.launch import launch_of
from sweeps.push import Push

_RUN: dict[str, tuple[str, Callable[[Any], int]]] = {
    "run": ("Do what is missing of a study, all stages.", commands.run_to("report")),
    "lora": ("Train the rank sweep, and what it needs; or search over LoRA settings.", commands.lora),
    "sample": (
        "Draw the synthetic images, and what they need; or a set of any size elsewhere.",
        commands.sample,
    ),
    "grid": ("Train the classifier grid and score it, and what it needs.", commands.run_to("grid")),
    "plan": ("Print every trial of a study; starts nothing.", commands.plan),
}
"""Commands that take a recipe and its flags."""
_ABOUT_A_RUN: dict[str, Any] = {
    "status": commands.Status,
    "logs": remote.Logs,
    "stop": remote.Stop,
    "report": commands.WriteReport,
    "compare": commands.Compare,
    "export": commands.Export,
    "checklist": commands.Checklist,
    "push": Push,
}
"""Commands about a run that is there."""
COMMANDS = (*_RUN, *_ABOUT_A_RUN)
"""Every command."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
"""What a disk answers that takes no more: a person can mend it, and needs no traceback."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code. SIGTERM, which a cluster stops its jobs with, is taken as Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(guarded(list(sys.argv[1:] if argv is None else argv)))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def guarded(words: list[str]) -> int:
    """Return a command's exit code, with input errors and Ctrl-C turned into words."""
    try:
        return _command(words)
    except InputError as error:
        print("\n".join(f"sweeps: {text}" for text in error.faults), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sweeps: stopped; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f"{error.filename}: " if error.filename else ""
        remedy = "What is finished is kept. Make room or restore the directory's permissions, then run it again"
        print(f"sweeps: {place}{error.strerror}. {remedy}", file=sys.stderr)
        return 2


def _command(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"sweeps {__version__}")
        return 0
    name = words[0] if words else "--help"
    if name in _RUN:
        about, act = _RUN[name]
        launch = launch_of(name, words[1:], about)
        if launch.cluster.detach and name != "plan":
            return remote.submit(name, words[1:], launch)
        return act(launch)
    if not name.startswith("-") and name not in _ABOUT_A_RUN:
        raise InputError(f"unknown command {name!r}; it must be one of {', '.join(COMMANDS)}")
    about = "FU-LoRA studies on Ray. `sweeps COMMAND --help` tells more; `sweeps --version` prints the version."
    every: dict[str, Any] = {command: commands.help_of(text) for command, (text, _) in _RUN.items()} | _ABOUT_A_RUN
    chosen = tyro.extras.subcommand_cli_from_dict(every, prog="sweeps", description=about, args=words)
    return chosen.act()


if __name__ == "__main__":
    main()
