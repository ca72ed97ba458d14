"""Jobs in processes of their own, run by turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from job import Job, Side
from sides import start, words

_PAUSE = 0.05  # seconds between runs, in which PyTorch's threads stop spinning
_WARM_UP = 2  # runs before any is timed: what is compiled is compiled in the first, or where a second differs from it


class Process:
    """A child that has loaded a job, or a side's without one; what goes wrong in it stands on standard error."""

    def __init__(self, job: Job | None = None, side: Side = "ours") -> None:
        command, env = start(side if job is None else job.side)
        self.pipe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        if job is not None:
            self.ask("load", **words(job))

    def ask(self, do: str, **options: Any) -> Any:
        """The answer to one request."""
        assert self.pipe.stdin is not None
        assert self.pipe.stdout is not None
        self.pipe.stdin.write(json.dumps({"do": do, **options}) + "\n")
        self.pipe.stdin.flush()
        line = self.pipe.stdout.readline()
        if not line:
            raise RuntimeError(f"a benchmark's process ended with status {self.pipe.wait()} when asked to {do}")
        return json.loads(line)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.pipe.terminate()
        self.pipe.communicate()  # closes the pipes, and waits for the end


def by_turns(jobs: Mapping[str, Job], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every run of every job, all jobs loaded and warmed up, then run in turn so many times."""
    processes = {name: Process(job) for name, job in jobs.items()}
    try:
        for process in processes.values():
            for _ in range(_WARM_UP):
                process.ask("run")
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(repetitions):
            for name, process in processes.items():
                time.sleep(_PAUSE)
                seconds[name].append(process.ask("run")["seconds"])
    finally:
        for process in processes.values():
            process.__exit__()
    return seconds


def peak(job: Job, runs: int = 3) -> int:
    """Bytes of the most memory a process had that did nothing but this job."""
    with Process(job) as process:
        for _ in range(runs):
            process.ask("run")
        found: int = process.ask("peak")["bytes"]
    return found


def median(values: list[float]) -> float:
    """The middle one."""
    return statistics.median(values)
