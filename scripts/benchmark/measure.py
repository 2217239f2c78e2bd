"""Runs one command and says what it took; medians and the table."""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass
class Sample:
    """One run. Seconds; bytes. Memory is the larger of two: what the largest process had at
    most (as the kernel counts), and the sum over all processes (sampled, shared pages counted
    once)."""

    wall: float
    cpu: float
    peak: int


@dataclass
class Row:
    what: str
    tool: str
    samples: list = field(default_factory=list)
    stored: int = 0
    note: str = ""

    def median(self, name):
        return statistics.median(getattr(sample, name) for sample in self.samples)


class Failed(Exception):
    pass


def run(argv, env=None, log=None, check=True):
    """Runs argv under GNU time and returns its Sample."""
    with tempfile.NamedTemporaryFile("r", prefix="bench-time.") as times:
        timed = ["/usr/bin/time", "-q", "-f", "%U %S %M", "-o", times.name, *map(str, argv)]
        with tempfile.TemporaryFile() as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                timed, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )
            watch = Watch(process.pid)
            try:
                code = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
            wall = time.perf_counter() - began
            summed = watch.stop()
            if log is not None or (check and code != 0):
                output.seek(0)
                text = output.read().decode(errors="replace")
                if log is not None:
                    log.write(f"$ {' '.join(map(str, argv))}\n{text}")
                if check and code != 0:
                    tail = "\n".join(text.splitlines()[-20:])
                    raise Failed(f"{' '.join(map(str, argv))} ended with {code}:\n{tail}")
        user, system, largest = times.read().split()[-3:]
        return Sample(wall, float(user) + float(system), max(int(largest) * 1024, summed))


class Watch:
    """Samples the memory of a process and its descendants, ten times a second."""

    def __init__(self, pid):
        self.pid, self.peak, self.ended = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        while not self.ended.wait(0.1):
            tree = descendants(self.pid)
            # One process is counted by the kernel itself.
            if len(tree) > 1:
                self.peak = max(self.peak, sum(proportional(pid) for pid in tree))

    def stop(self):
        self.ended.set()
        self.thread.join()
        return self.peak


def descendants(root):
    """The processes below root, without it."""
    found, front = [], [root]
    while front:
        pid = front.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    below = [int(word) for word in children.read().split()]
                found += below
                front += below
        except OSError:
            pass
    return found


def proportional(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except OSError:
        return 0


def say(text):
    print(text, file=sys.stderr, flush=True)


def table(title, rows):
    """A Markdown table: rows of the same `what` are compared with ours among them."""
    lines = [
        f"### {title}",
        "",
        "| What | Tool | Median s | Fastest s | x ours | CPU s | Peak MiB | Stored MiB | |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    ours = {row.what: row.median("wall") for row in rows if row.tool == "ours" and row.samples}
    for row in rows:
        if not row.samples:
            lines.append(f"| {row.what} | {row.tool} | failed | | | | | | {row.note} |")
            continue
        wall = row.median("wall")
        base = ours.get(row.what)
        fastest = min(sample.wall for sample in row.samples)
        lines.append(
            f"| {row.what} | {row.tool} | {seconds(wall)} | {seconds(fastest)} "
            f"| {f'{wall / base:.2f}' if base else ''} "
            f"| {seconds(row.median('cpu'))} | {row.median('peak') / MIB:.0f} "
            f"| {f'{row.stored / MIB:.1f}' if row.stored else ''} | {row.note} |"
        )
    return "\n".join(lines) + "\n"


def seconds(value):
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"
