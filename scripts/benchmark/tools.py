"""How each tool is asked to do the same thing: the same cluster, the same S3 server, two workers,
a fast checkpoint, no waiting for WAL.

A codec is "gzip", at the tool's own level, or "gzip:6"."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from bed import ACCESS, BUCKET

JOBS = 2


def level_of(codec):
    """The number behind the colon, as a list of no or one word."""
    return codec.split(":")[1:]


def algorithm(codec):
    return codec.split(":")[0]


class Tool:
    """Everything a tool writes lies below one prefix per codec, which may be removed."""

    name = ""
    backup_codecs = ()

    def __init__(self, store, cluster, folder):
        self.store, self.cluster, self.folder = store, cluster, folder

    def environment(self, _codec):
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            **self.store.credentials,
            **self.cluster.environment,
        }

    def prefix(self, codec):
        return f"{self.name}-{self.cluster.data}-{codec.replace(':', '-')}"

    def place(self, codec):
        return f"s3://{BUCKET}/{self.prefix(codec)}"

    def clean(self, codec):
        """Before each backup."""
        self.store.remove(self.prefix(codec))

    def clean_wal(self, codec):
        """Before each push: the archive as it was before the first one."""
        self.store.remove(self.prefix(codec))

    def stored(self, codec):
        return self.store.size(self.prefix(codec))

    def has_backup(self, codec):
        return self.stored(codec) > 1024 * 1024


class Cloud(Tool):
    """The common words of these commands and Barman's."""

    def words(self, command, codec, *more):
        flags = [] if codec == "none" else [f"--{algorithm(codec)}"]
        for level in level_of(codec):
            flags += ["--compression-level", level]
        return [*self.program(command), "--endpoint-url", self.store.endpoint, *flags,
                *map(str, more)]

    def backup(self, codec):
        return self.words("backup", codec, "-J", JOBS, "--immediate-checkpoint", *self.extra,
                          self.place(codec), "main")

    def restore(self, codec, target):
        backups = self.store.bucket / self.prefix(codec) / "main" / "base"
        newest = max(path.name for path in backups.iterdir())
        return self.words("restore", "none", self.place(codec), "main", newest, target)

    def push(self, codec, segment):
        return self.words("wal-archive", codec, self.place(codec), "main", segment)

    def fetch(self, codec, segment, target):
        return self.words("wal-restore", "none", self.place(codec), "main", segment.name, target)

    def list(self, place, server):
        return self.words("backup-list", "none", place, server)

    def delete(self, place, server, policy, *more):
        return self.words("backup-delete", "none", *more, "-r", policy, place, server)


class Ours(Cloud):
    name = "ours"
    backup_codecs = ("gzip", "gzip:6", "lz4", "zstd", "zstd:3")

    def __init__(self, store, cluster, folder, program, extra):
        super().__init__(store, cluster, folder)
        self.path = program
        self.extra = ["--no-wal-check", *shlex.split(extra)]

    def program(self, command):
        return [self.path, command]

    def clean_wal(self, codec):
        # The first push leaves the archive's identity behind; no later one writes it.
        self.store.remove(f"{self.prefix(codec)}/main/wals")


class Barman(Cloud):
    name = "barman"
    backup_codecs = ("gzip", "lz4")
    extra = ()

    def __init__(self, store, cluster, folder, programs):
        super().__init__(store, cluster, folder)
        self.programs = programs

    def program(self, command):
        return [self.programs / f"barman-cloud-{command}"]


class PgBackRest(Tool):
    name = "pgbackrest"
    backup_codecs = ("gzip", "gzip:6", "lz4", "zstd", "zstd:3")
    types = {"gzip": "gz", "lz4": "lz4", "zstd": "zst"}

    def configuration(self, codec):
        path = self.folder / f"{self.prefix(codec)}.conf"
        level = "".join(f"compress-level={level}" for level in level_of(codec))
        path.write_text(f"""[global]
repo1-type=s3
repo1-path=/{self.prefix(codec)}
repo1-bundle=y
repo1-s3-bucket={BUCKET}
repo1-s3-endpoint=localhost
repo1-s3-region=us-east-1
repo1-s3-key={ACCESS}
repo1-s3-key-secret={ACCESS}
repo1-s3-uri-style=path
repo1-storage-host=127.0.0.1
repo1-storage-port={self.store.start_tls()}
repo1-storage-verify-tls=n
repo1-retention-full=2
compress-type={self.types[algorithm(codec)]}
{level}
process-max={JOBS}
start-fast=y
archive-check=n
log-level-file=off
log-path={self.folder}
lock-path={self.folder}/pgbackrest-lock
spool-path={self.folder}
[main]
pg1-path={self.cluster.directory}
pg1-socket-path={self.cluster.sockets}
pg1-user=postgres
""")
        return path

    def words(self, codec, *more):
        configuration = self.folder / f"{self.prefix(codec)}.conf"
        return ["pgbackrest", f"--config={configuration}", "--stanza=main", *map(str, more)]

    def clean(self, codec):
        super().clean(codec)
        self.configuration(codec)
        argv = self.words(codec, "stanza-create", "--no-online")
        subprocess.run(argv, env=self.environment(codec), check=True, capture_output=True)

    def clean_wal(self, codec):
        if not (self.store.bucket / self.prefix(codec) / "archive").exists():
            self.clean(codec)
        self.configuration(codec)
        for folder in self.store.bucket.glob(f"{self.prefix(codec)}/archive/main/*/0*"):
            shutil.rmtree(folder)

    def backup(self, codec):
        return self.words(codec, "backup", "--type=full", "--no-expire-auto")

    def restore(self, codec, target):
        self.configuration(codec)
        return self.words(codec, "restore", f"--pg1-path={target}")

    def push(self, codec, segment):
        return self.words(codec, "archive-push", segment)

    def fetch(self, codec, segment, target):
        return self.words(codec, "archive-get", segment.name, target)


class WalRus(Tool):
    name = "wal-rus"
    backup_codecs = ("gzip", "gzip:6", "lz4", "zstd", "zstd:3")

    def __init__(self, store, cluster, folder, program):
        super().__init__(store, cluster, folder)
        self.program = program

    def environment(self, codec):
        return {
            **super().environment(codec),
            "WALG_S3_PREFIX": self.place(codec),
            "AWS_ENDPOINT_URL": self.store.endpoint,
            "AWS_S3_FORCE_PATH_STYLE": "true",
            "WALG_COMPRESSION_METHOD": algorithm(codec),
            **{"WALG_COMPRESSION_LEVEL": level for level in level_of(codec)},
            "WALG_UPLOAD_CONCURRENCY": str(JOBS),
            "WALG_DOWNLOAD_CONCURRENCY": str(JOBS),
            "WALG_PREFETCH_DIR": str(self.folder / "walrus-prefetch"),
            "PGDATA": str(self.cluster.directory),
        }

    def backup(self, _codec):
        return [self.program, "backup-push", self.cluster.directory]

    def restore(self, _codec, target):
        return [self.program, "backup-fetch", target, "LATEST"]

    def push(self, _codec, segment):
        return [self.program, "wal-push", segment]

    def fetch(self, _codec, segment, target):
        return [self.program, "wal-fetch", segment.name, target]


def all_tools(store, cluster, folder, options):
    """The tools that were asked for and are there."""
    tools = [
        Ours(store, cluster, folder, options.ours, options.ours_args),
        Barman(store, cluster, folder, options.barman),
        PgBackRest(store, cluster, folder),
        WalRus(store, cluster, folder, options.walrus),
    ]
    there = {
        "ours": Path(options.ours).exists(),
        "barman": (options.barman / "barman-cloud-backup").exists(),
        "pgbackrest": shutil.which("pgbackrest") is not None,
        "wal-rus": Path(options.walrus).exists(),
    }
    return [tool for tool in tools if tool.name in options.tools and there[tool.name]]
