"""The benchmark's options and its four sections; scripts/bench calls this."""

import argparse
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from archive import Archive
from bed import ACCESS, BUCKET, Cluster, Store, usable_folder, warm
from measure import MIB, Failed, Row, run, say, table
from tools import JOBS, algorithm, all_tools

SECTIONS = ("backup", "restore", "wal", "catalog")
# Backups in the archives under retention.
DAYS = 200
# At each level that Barman takes when nothing is said, too: ours is quicker then.
WAL_CODECS = ("gzip", "lz4", "zstd", "gzip:6", "lz4:6", "zstd:4")
CODECS = ("gzip", "lz4", "zstd", "gzip:6", "zstd:3")
DATA = ("mixed", "pgbench", "tables")
TOOLS = ("ours", "barman", "pgbackrest", "wal-rus", "bound")


def main():
    options = read_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = usable_folder(options.folder)
    lock = open(folder / "lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    store = Store(options.versitygw, folder)
    try:
        print(heading(options))
        for data in options.data:
            if set(options.only) & {"backup", "restore", "wal"}:
                measure_cluster(options, store, folder, data)
        if "catalog" in options.only:
            measure_catalog(options, store, folder)
    finally:
        store.stop()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def read_options():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures backup, restore, "
                                     "WAL and catalog of several tools; prints Markdown.")
    word_list = lambda words: lambda text: pick(text, words)
    parser.add_argument("--only", type=word_list(SECTIONS), default=SECTIONS, metavar="SECTIONS",
                        help="some of backup,restore,wal,catalog")
    parser.add_argument("--tools", type=word_list(TOOLS), default=TOOLS, metavar="TOOLS",
                        help="some of ours,barman,pgbackrest,wal-rus,bound")
    parser.add_argument("--codecs", type=word_list(CODECS), metavar="CODECS", default=CODECS,
                        help=f"some of {','.join(CODECS)}; without a number each tool's own level")
    parser.add_argument("--data", type=word_list(DATA), metavar="DATA",
                        default=("mixed", "pgbench"), help="some of mixed,pgbench,tables")
    parser.add_argument("--size", type=int, default=1400, metavar="MB",
                        help="of the cluster [default: 1400]")
    parser.add_argument("--runs", type=int, default=3, metavar="N",
                        help="of each measurement, the tools in turn [default: 3]")
    parser.add_argument("--backups", type=int, default=2000, help="to list [default: 2000]")
    parser.add_argument("--wals", type=int, default=200_000, help="under retention [default: 200000]")
    parser.add_argument("--keep", action="store_true",
                        help="leave clusters and backups for the next run")
    parser.add_argument("--ours", type=Path, help="another barman-cloud than target/release's")
    parser.add_argument("--ours-args", default="", metavar="WORDS", help="for our backup")
    parser.add_argument("--walrus", type=Path, help="a walrus that is there already")
    for name in ("barman", "versitygw", "postgres", "folder"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("ours", "walrus", "barman", "versitygw", "postgres", "folder"):
        value = getattr(options, name)
        setattr(options, name, value and value.absolute())
    return options


def pick(text, words):
    chosen = tuple(text.split(","))
    unknown = set(chosen) - set(words)
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
    return chosen


def heading(options):
    version = subprocess.run([options.ours, "--version"], capture_output=True, text=True).stdout
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    return (f"## {version.strip()} on {os.cpu_count()} cores, {memory} MiB, Linux "
            f"{platform.release()}\n\nMedian of {options.runs} runs, tools in turn, page cache "
            f"warm, {JOBS} workers each, S3 (versitygw) on the loopback of the same machine, for "
            "pgBackRest with TLS, because it has nothing else. Codecs without a number are at "
            "each tool's own level: compare the stored sizes. "
            "\"x ours\" above 1: slower than ours. CPU and memory are the tool's, without the "
            "server's. WAL-G is not available as a package or Go module here.\n")


def measure_cluster(options, store, folder, data):
    cluster = Cluster(options.postgres, folder, data, options.size)
    try:
        cluster.build()
        cluster.start()
        tools = all_tools(store, cluster, folder, options)
        size = cluster.bytes() / MIB
        bound = "bound" in options.tools
        for name, section in (("backup", backup), ("restore", restore), ("wal", wal)):
            if name in options.only:
                rows = section(options, store, cluster, tools, folder, bound)
                print(table(f"{name}, {data}, {size:.0f} MiB", rows), flush=True)
    finally:
        cluster.close()


def in_turn(runs, measurements):
    """Each measurement once, then each a second time: what drifts hits all alike. A measurement
    that fails is reported and left out from then on."""
    failed = set()
    for turn in range(runs):
        for row, measure in measurements:
            if id(row) in failed:
                continue
            try:
                row.samples.append(measure())
            except (Failed, subprocess.CalledProcessError) as error:
                failed.add(id(row))
                row.samples.clear()
                output = getattr(error, "stdout", None) or b""
                say(f"{row.what}, {row.tool}: {error}\n{output.decode(errors='replace')}")
                continue
            sample = row.samples[-1]
            say(f"{turn + 1}. {row.what}, {row.tool}: {sample.wall:.3f} s, "
                f"{sample.peak / MIB:.0f} MiB")
    return [row for row, _ in measurements]


def backup(options, store, cluster, tools, folder, bound):
    measurements = []
    for codec in options.codecs:
        for tool in tools:
            if codec in tool.backup_codecs:
                row = Row(f"backup {codec}", tool.name)
                measurements.append((row, lambda t=tool, c=codec, r=row: one_backup(t, c, r)))
    if bound:
        data, wal = cluster.directory, cluster.directory / "pg_wal"
        read = f"find {data} -path {wal} -prune -o -type f -print0 | xargs -0 cat >/dev/null"
        tar = f"tar -C {data} --exclude=./pg_wal -c . 2>/dev/null"
        for codec in options.codecs:
            if codec.startswith("zstd"):
                measurements.append(shell(f"backup {codec}", "bound: tar, zstd -3 -T2, null",
                                          f"{tar} | zstd -q -3 -T{JOBS} >/dev/null"))
        measurements.append(shell("bound", "cat of the data directory, null", read))
        measurements.append(shell("bound", "PUT of the raw tar, one stream",
                                  raw_put(store, folder, tar)))
    return in_turn(options.runs, measurements)


def one_backup(tool, codec, row):
    tool.clean(codec)
    warm(tool.cluster.directory)
    sample = run(tool.backup(codec), env=tool.environment(codec))
    row.stored = tool.stored(codec)
    return sample


def shell(what, tool, command):
    return Row(what, tool), lambda: run(["bash", "-c", command])


def raw_put(store, folder, tar):
    subprocess.run(["bash", "-c", f"{tar} >{folder}/raw.tar"], check=True)
    signer = f"--user {ACCESS}:{ACCESS} --aws-sigv4 aws:amz:us-east-1:s3"
    return (f"curl -sf {signer} -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "
            f"-T {folder}/raw.tar {store.endpoint}/{BUCKET}/raw.tar")


def restore(options, store, cluster, tools, folder, bound):
    """Every tool's files are on disk in the end: who does not sync is followed by a sync of
    what was restored."""
    target = folder / "restored"
    measurements = []
    for codec in options.codecs:
        for tool in tools:
            if codec not in tool.backup_codecs:
                continue
            if not tool.has_backup(codec):
                say(f"Backing up for the restore: {codec}, {tool.name}")
                tool.clean(codec)
                run(tool.backup(codec), env=tool.environment(codec))
            row = Row(f"restore {codec}", tool.name, stored=tool.stored(codec))
            row.note = "" if tool.name in ("ours", "pgbackrest") else "then sync"
            measurements.append(
                (row, lambda t=tool, c=codec, r=row: one_restore(store, t, c, target, r)))
    if bound:
        data = cluster.directory
        subprocess.run(["bash", "-c", f"tar -C {data} --exclude=./pg_wal -cf {folder}/raw.tar ."],
                       check=True)
        row = Row("bound", "tar -x of the same files, then sync")
        measurements.append((row, lambda: unpacked(folder, target)))
    rows = in_turn(options.runs, measurements)
    shutil.rmtree(target, ignore_errors=True)
    return rows


def one_restore(store, tool, codec, target, row):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    warm(store.bucket / tool.prefix(codec))
    argv = tool.restore(codec, target)
    if row.note:
        argv = ["sh", "-c", f'"$@" && {sync(target)}', "sh", *argv]
    sample = run(argv, env=tool.environment(codec))
    if not (target / "global" / "pg_control").exists():
        raise Failed(f"{tool.name} restored no pg_control")
    return sample


def unpacked(folder, target):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    warm(folder / "raw.tar")
    return run(["sh", "-c", f"tar -C {target} -xf {folder}/raw.tar && {sync(target)}"])


def sync(target):
    return f"sync -f {target}"


def wal(options, store, cluster, tools, folder, bound):
    """One segment a process, as PostgreSQL calls it; five times as often as the long ones."""
    segment = cluster.segment()
    target = folder / "fetched"
    up, down = [], []
    for codec in WAL_CODECS:
        for tool in tools:
            if algorithm(codec) in options.codecs:
                row = Row(f"WAL up {codec}", tool.name)
                up.append((row, lambda t=tool, c=codec, r=row: one_push(t, c, segment, r)))
                row = Row(f"WAL down {codec}", tool.name)
                down.append((row, lambda t=tool, c=codec: one_fetch(t, c, segment, target)))
    if bound:
        copy = f"cp {segment} {target} && sync {target}"
        down.append(shell("bound", "cp of the segment, then sync", copy))
    for tool in tools:
        for codec in WAL_CODECS:
            tool.clean_wal(codec)
            # Ours remembers the archive's identity from the first push on.
            run(tool.push(codec, segment), env=tool.environment(codec), check=False)
    rows = in_turn(options.runs * 5, up) + in_turn(options.runs * 5, down)
    target.unlink(missing_ok=True)
    return rows


def one_push(tool, codec, segment, row):
    tool.clean_wal(codec)
    before = tool.stored(codec)
    sample = run(tool.push(codec, segment), env=tool.environment(codec))
    row.stored = tool.stored(codec) - before
    if row.stored == 0:
        raise Failed(f"{tool.name} stored nothing")
    return sample


def one_fetch(tool, codec, segment, target):
    target.unlink(missing_ok=True)
    sample = run(tool.fetch(codec, segment, target), env=tool.environment(codec))
    if target.read_bytes() != segment.read_bytes():
        raise Failed(f"{tool.name} fetched another content")
    return sample


def measure_catalog(options, store, folder):
    cluster = Cluster(options.postgres, folder, options.data[0], options.size)
    chosen = [tool for tool in all_tools(store, cluster, folder, options)
              if tool.name in ("ours", "barman")]
    many = Archive(store, "catalog-many", options.backups, 0)
    say(f"Making an archive of {options.backups} backups")
    many.build()
    rows = in_turn(options.runs, [
        (Row(f"list {options.backups} backups", tool.name),
         lambda t=tool: run(t.list(many.place, "main"), env=t.environment("none")))
        for tool in chosen
    ])
    many.remove()
    # A great clean-up costs Barman time that grows with the square of the archive.
    for wals, cases in (
        (options.wals, (
            ("nothing to delete", f"REDUNDANCY {DAYS}", []),
            (f"one backup of {DAYS} goes", f"REDUNDANCY {DAYS - 1}", []),
        )),
        (options.wals // 10, (
            (f"plan only, one of {DAYS} stays", "REDUNDANCY 1", ["--dry-run"]),
            (f"one of {DAYS} stays", "REDUNDANCY 1", []),
        )),
    ):
        long = Archive(store, f"catalog-{wals}", DAYS, wals)
        say(f"Making an archive of {wals} WAL files")
        for what, policy, more in cases:
            rows += in_turn(options.runs, [
                (Row(f"retention, {wals} WAL files, {what}", tool.name),
                 lambda t=tool, a=long, p=policy, m=more: one_delete(a, t, p, m))
                for tool in chosen
            ])
        long.remove()
    cluster.close()
    print(table("catalog", rows), flush=True)


def one_delete(archive, tool, policy, more):
    archive.build()
    # Listed once, so that no tool is the first to read the server's folders.
    subprocess.run(["find", archive.store.bucket / archive.prefix, "-size", "0"], check=True,
                   stdout=subprocess.DEVNULL)
    return run(tool.delete(archive.place, "main", policy, *more), env=tool.environment("none"))


if __name__ == "__main__":
    main()
