"""Training and reranking on several GPUs compared with one: same results, speed-up, and recovery from a killed worker.

    python benchmarks/several_gpus.py --output benchmarks/results/several-gpus-h200.csv
    python benchmarks/several_gpus.py --quick --parts training small-card --output quick.csv

Parts: `gradients` (loss and gradients of DDP and FSDP2 equal one GPU's at the same global batch), `reranking` (pairs/s,
the same scores, and the same bytes from `ssmrank rerank`), `training` (tokens/s of whole steps and memory, for each way
of sharing a training out; `batch` is per GPU: the same batch per GPU is weak scaling, the same global batch strong
scaling), `small-card` (a large model trains within 24 GiB), `kill` (a worker of `ssmrank train` dies: the others stop,
and the resumed training reaches the same weights). Random weights. The exit status is 1 if a check fails. `--quick`
measures training and small-card in 150 s. With `--device cpu`, tiny models show that everything runs.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import several_gpus_commands
import torch
from several_gpus_report import Report
from several_gpus_training import WAYS
from shapes import CLASSES

from ssmrank.errors import UserError
from ssmrank.launch import launch

SIDE_BY_SIDE = ("gradients", "small-card", "training", "reranking")
"""Parts of several_gpus_process.py, in this order."""
COMMANDS: dict[str, Callable[[Report, several_gpus_commands.Collection], None]] = {
    "reranking": several_gpus_commands.rerank,
    "kill": several_gpus_commands.kill,
}
PARTS = [*SIDE_BY_SIDE, "kill"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; quick: training and small-card")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="*", help="names of benchmarks/shapes.py (default: of 330M; on a CPU of 4M)")
    parser.add_argument(
        "--large", nargs="*", help="models trained in small batches (default: Mamba-2-1.3B; on a CPU none)"
    )
    parser.add_argument("--limit", type=float, help="seconds for the parts side by side (default: 420, quick: 135)")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=[], help="of training (default: all)")
    parser.add_argument("--cards", type=int, help="how many (default: all; on a CPU 2)")
    parser.add_argument("--quick", action="store_true", help="16 x 512 tokens alone, without profiles, in 150 s")
    arguments = parser.parse_args()
    arguments.cards = arguments.cards or (torch.cuda.device_count() if arguments.device == "cuda" else 2)
    if arguments.cards < 2 or (arguments.device == "cuda" and torch.cuda.device_count() < arguments.cards):
        parser.error(f"{max(2, arguments.cards)} GPUs are needed; --device cpu runs on a CPU")
    arguments.parts = arguments.parts or (["small-card", "training"] if arguments.quick else PARTS)
    arguments.limit = arguments.limit or (135.0 if arguments.quick else 420.0)
    cpu = arguments.device == "cpu"
    arguments.models = arguments.models or (["OPT", "Mamba-2"] if cpu else ["OPT-350M", "Mamba-2-370M"])
    arguments.large = arguments.large if arguments.large is not None else [] if cpu else ["Mamba-2-1.3B"]
    known = [shape.name for shapes in CLASSES.values() for shape in shapes]
    unknown = [name for name in (*arguments.models, *arguments.large) if name not in known]
    if unknown:
        parser.error(f"{unknown[0]} is no model of benchmarks/shapes.py")
    arguments.output.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name:
        report = Report(Path(name), arguments.output)
        _side_by_side(arguments, report)
        _commands(arguments, report, Path(name))
        return 0 if report.print_summary() else 1


def _side_by_side(arguments: argparse.Namespace, report: Report) -> None:
    """Runs the parts in processes, one a GPU; if a part fails, those after it run in other processes."""
    left = [part for part in SIDE_BY_SIDE if part in arguments.parts]
    end = time.monotonic() + arguments.limit
    script = Path(__file__).with_name("several_gpus_process.py")
    options = ["--device", arguments.device, "--folder", str(report.folder), "--output", str(arguments.output)]
    options += ["--models", *arguments.models, "--large", *arguments.large, "--ways", *arguments.ways]
    options += ["--end", str(time.time() + 0.9 * arguments.limit), *(["--quick"] if arguments.quick else [])]
    signal.signal(signal.SIGALRM, _too_long)
    while left:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1.0, end - time.monotonic()))
            launch([sys.executable, str(script), *options, "--parts", *left], arguments.cards)
        except (UserError, SystemExit, TimeoutError) as error:
            failed = next((part for part in left if part not in report.parts_done), left[-1])
            report.check(failed, False, str(error))
        else:
            return
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        left = left[left.index(failed) + 1 :]


def _too_long(*_: object) -> None:
    raise TimeoutError("stopped: it took longer than --limit says")


def _commands(arguments: argparse.Namespace, report: Report, folder: Path) -> None:
    parts = [part for part in COMMANDS if part in arguments.parts]
    if not parts:
        return
    collection = several_gpus_commands.Collection(folder, arguments.device, arguments.cards)

    def run(part: str) -> None:
        started = time.monotonic()
        try:
            COMMANDS[part](report, collection)
        except Exception as error:
            traceback.print_exc()
            report.check(f"{part} by the command line", False, str(error))
        print(f"{part} by the command line: {time.monotonic() - started:.0f} s", flush=True)

    # Only the end of a killed training is timed, so parts may share GPUs; a CPU with few cores would be too slow.
    with ThreadPoolExecutor(len(parts) if arguments.device == "cuda" else 1) as pool:
        list(pool.map(run, parts))


if __name__ == "__main__":
    sys.exit(main())
