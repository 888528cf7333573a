"""Runs `ssmrank train` in forked processes that are killed at set moments; a script of test_kill.py.

Standard input: {"arguments": […], "plans": [[KILL, …], …], "packages": […]}; "{plan}" in an argument is the plan's
number. Each plan is one training, which is started again after each kill and finally left to end. A KILL is ["step",
n]: SIGKILL after the n-th optimizer step of that process; ["write", n, share]: when the n-th file of torch.save has
this share of its bytes; ["rename", n]: before the n-th folder takes its name; ["removal", n]: before the n-th old
folder is removed. Prints the exit status of each process as JSON. Imports take seconds, so they are done once, also
those of the packages.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from ssmrank.cli import main
from ssmrank.startup import importing

with importing():
    import torch

    import ssmrank.commands.train  # noqa: F401
    from ssmrank.training.extras import import_quietly


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_call(owner, name, number, action):
    """Makes the `number`-th call of owner.name do `action(*its arguments)` first."""
    original, calls = getattr(owner, name), [0]

    def counted(*arguments, **options):
        calls[0] += 1
        if calls[0] == number:
            action(*arguments)
        return original(*arguments, **options)

    setattr(owner, name, counted)


def plan_kill(kind, number, share=0.0):
    if kind == "step":
        before_call(torch.nn.Module, "zero_grad", number, lambda *_: die())
        before_call(torch.optim.Optimizer, "zero_grad", number, lambda *_: die())
    elif kind == "write":

        def write_part(content, path):
            whole = io.BytesIO()
            save(content, whole)
            Path(path).write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
            die()

        save = torch.save
        before_call(torch, "save", number, write_part)
    elif kind == "rename":
        before_call(Path, "replace", number, lambda *_: die())
    elif kind == "removal":
        before_call(shutil, "rmtree", number, lambda *_: die())
    else:
        raise ValueError(kind)


def run(arguments, kill) -> int:
    """The exit status; negative for a signal."""
    process = os.fork()
    if process == 0:
        if kill is not None:
            plan_kill(*kill)
        os._exit(main(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    work = json.load(sys.stdin)
    torch.set_num_threads(1)
    for package in work["packages"]:
        import_quietly(package)
    statuses = []
    for number, plan in enumerate(work["plans"]):
        arguments = [word.replace("{plan}", str(number)) for word in work["arguments"]]
        statuses.append([run(arguments, kill) for kill in [*plan, None]])
    print(json.dumps(statuses))
