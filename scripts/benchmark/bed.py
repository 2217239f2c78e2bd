"""The bed of all measurements: two clusters, built once and used again, and the S3 server."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from measure import MIB, say

ACCESS = "testtest"
BUCKET = "bench"
# Of Debian's PostgreSQL packages; PostgreSQL does not run as root.
POSTGRES = "postgres"


def as_postgres():
    return {"user": POSTGRES, "group": POSTGRES, "extra_groups": []} if os.getuid() == 0 else {}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def usable_folder(wanted):
    """The folder itself, or one below /var/tmp if PostgreSQL's user cannot enter it."""
    wanted.mkdir(parents=True, exist_ok=True)
    reachable = subprocess.run(["test", "-x", wanted], **as_postgres(), check=False)
    if reachable.returncode == 0:
        return wanted
    other = Path("/var/tmp/barman-cloud-bench")
    say(f"PostgreSQL's user cannot enter {wanted}: everything is kept in {other}")
    other.mkdir(exist_ok=True)
    return other


class Store:
    """versitygw on the loopback, with one face in clear text and one with TLS, which pgBackRest
    insists on. Its objects are files below `root`, so they can be made and removed directly."""

    def __init__(self, program, folder):
        self.folder, self.program = folder, program
        self.root = folder / "store"
        self.bucket = self.root / BUCKET
        self.bucket.mkdir(parents=True, exist_ok=True)
        self.processes = []
        self.port = self.start([])
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.tls_port = None
        # For the tools, and for nothing else.
        self.credentials = {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": ACCESS,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self, more):
        port = free_port()
        argv = [self.program, "--access", ACCESS, "--secret", ACCESS]
        argv += ["--port", f"127.0.0.1:{port}", "--keep-alive", "--quiet", *more]
        argv += ["posix", "--data-integrity-etag", self.root]
        log = open(self.folder / "versitygw.log", "ab")
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes.append(process)
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return port
            if process.poll() is not None:
                break
            time.sleep(0.1)
        raise SystemExit(f"versitygw did not start, see {self.folder}/versitygw.log")

    def start_tls(self):
        if self.tls_port is None:
            key, certificate = self.folder / "tls.key", self.folder / "tls.crt"
            argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
            argv += ["ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
            argv += ["-keyout", key, "-out", certificate]
            subprocess.run(argv, check=True, capture_output=True)
            self.tls_port = self.start(["--cert", certificate, "--key", key])
        return self.tls_port

    def size(self, prefix):
        files = (path for path in (self.bucket / prefix).rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files)

    def remove(self, prefix):
        shutil.rmtree(self.bucket / prefix, ignore_errors=True)

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()


class Cluster:
    """A PostgreSQL with page checksums, filled with one kind of rows."""

    def __init__(self, programs, folder, data, megabytes):
        self.programs, self.data, self.megabytes = programs, data, megabytes
        self.folder = folder / "clusters" / f"{data}-{megabytes}"
        self.directory = self.folder / "data"
        self.segments = self.folder / "segments"
        self.sockets = Path(tempfile.mkdtemp(prefix="bench-socket."))
        self.sockets.chmod(0o755)
        if os.getuid() == 0:
            shutil.chown(self.sockets, POSTGRES, POSTGRES)
        self.environment = {
            "PGHOST": str(self.sockets),
            "PGPORT": "5432",
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
        }

    def command(self, *argv, **options):
        environment = {**os.environ, **self.environment, "LC_ALL": "C.UTF-8"}
        words = [self.programs / argv[0], *map(str, argv[1:])]
        done = subprocess.run(
            words, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, **as_postgres(), **options
        )
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{done.stdout[-2000:]}")
        return done.stdout

    def sql(self, text):
        return self.command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text).strip()

    def size(self):
        return int(self.sql("select sum(pg_database_size(oid)) from pg_database"))

    def build(self):
        """Once; a folder without its mark is from a build that broke off."""
        if (self.folder / "complete").exists():
            return
        say(f"Building the cluster \"{self.data}\" of {self.megabytes} MB")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.segments.mkdir(parents=True)
        if os.getuid() == 0:
            shutil.chown(self.folder, POSTGRES, POSTGRES)
            shutil.chown(self.segments, POSTGRES, POSTGRES)
        self.command("initdb", "-D", self.directory, "-U", "postgres", "-A", "trust",
                     "--data-checksums", "--no-sync", "-E", "UTF8", "--no-locale")
        with open(self.directory / "postgresql.conf", "a") as conf:
            conf.write(CONFIGURATION)
        self.start()
        share = {"pgbench": 1, "mixed": 1 / 2, "tables": 1 / 50}[self.data]
        pgbench = self.megabytes * share
        # 15.1 MB for each unit of scale.
        self.command("pgbench", "-i", "-q", "-s", max(1, round(pgbench / 15.1)))
        if self.data == "mixed":
            self.fill(self.megabytes * 1_000_000 - self.size())
        if self.data == "tables":
            self.add_tables(self.megabytes * 1_000_000 // SMALL_TABLE_BYTES)
        self.command("vacuumdb", "-a", "-q", "--freeze", "--analyze")
        self.save_segment()
        self.sql("checkpoint")
        self.stop()
        (self.folder / "complete").touch()

    def fill(self, wanted):
        """Adds rows of many types, until the table and its indexes have the wanted size."""
        self.sql(MIXED_TABLE)
        before, rows, done = self.size(), 20_000, 0
        while rows > 0:
            self.sql(MIXED_ROWS.format(first=done + 1, last=done + rows))
            done += rows
            grown = self.size() - before
            rows = min(200_000, int((wanted - grown) / (grown / done)))

    def add_tables(self, count):
        """Adds many small tables, in transactions that do not exhaust the locks."""
        for first in range(0, count, 500):
            self.sql(SMALL_TABLES.format(first=first, last=min(first + 500, count) - 1))

    def save_segment(self):
        """A real WAL segment of some load, to be archived over and over."""
        name = self.sql("select pg_switch_wal(); select pg_walfile_name(pg_current_wal_lsn() + 1)")
        name = name.splitlines()[-1]
        turn = 0
        while self.sql("select pg_walfile_name(pg_current_wal_lsn() + 1)") == name:
            turn += 1
            if self.data == "mixed":
                self.sql(f"update mixed set amount = amount + 1 where id % 500 = {turn}")
            self.command("pgbench", "-n", "-c", "2", "-t", "500")
        shutil.copy(self.directory / "pg_wal" / name, self.segments / name)

    def segment(self):
        return next(self.segments.iterdir())

    def start(self):
        log = self.folder / "postgresql.log"
        self.command("pg_ctl", "-D", self.directory, "-l", log, "-w", "-t", "300",
                     "-o", f"-c unix_socket_directories={self.sockets}", "start")

    def stop(self):
        if (self.directory / "postmaster.pid").exists():
            self.command("pg_ctl", "-D", self.directory, "-m", "fast", "-w", "stop")

    def close(self):
        self.stop()
        shutil.rmtree(self.sockets, ignore_errors=True)

    def bytes(self):
        """What a backup has to copy: everything but pg_wal."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        wal = self.directory / "pg_wal"
        return sum(path.stat().st_size for path in files if wal not in path.parents)


# Nothing runs beside the backup, and archiving costs nothing.
CONFIGURATION = """
listen_addresses = ''
archive_mode = on
archive_command = '/bin/true'
autovacuum = off
max_wal_size = 256MB
min_wal_size = 80MB
shared_buffers = 128MB
synchronous_commit = off
"""

# About 3 to 1 under zstd: what services keep, with a seventh of bytes that no codec can shrink.
MIXED_TABLE = """
create table mixed (
  id bigint primary key, reference uuid, created timestamptz, amount numeric(14, 4),
  customer text, note text, properties jsonb, signature bytea);
create index on mixed (reference);
create index on mixed (created);
create index on mixed (customer);
create index on mixed using gin (properties jsonb_path_ops);
"""

MIXED_ROWS = """
insert into mixed select
  n, gen_random_uuid(), timestamptz '2026-01-01' + n * interval '1.7 seconds',
  (random() * 100000)::numeric(14, 4), 'customer ' || (random() * 50000)::int,
  (array['delivered to the front door', 'waiting for payment', 'returned by the customer',
         'parcel was damaged', 'left with a neighbour'])[1 + n % 5] || ', order '
    || (random() * 1000000)::int || ' of ' || n % 977 || ' items',
  jsonb_build_object('state', (array['new', 'paid', 'sent', 'closed'])[1 + n % 4],
    'weight', round((random() * 40)::numeric, 2), 'tags', jsonb_build_array('a' || n % 13, 'b' || n % 7),
    'address', jsonb_build_object('street', 'Street ' || (random() * 900)::int,
                                  'postcode', 10000 + (random() * 80000)::int)),
  decode(md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text), 'hex')
from generate_series({first}, {last}) n
"""

# Six files each: a table with its maps, its index, and a TOAST table with an index.
SMALL_TABLE_BYTES = 90_000

SMALL_TABLES = """
do $$ begin
  for n in {first} .. {last} loop
    execute format('create table small_%s (id int primary key, note text)', n);
    execute format('insert into small_%s select i, md5(i::text || %s) from generate_series(1, 150) i', n, n);
  end loop;
end $$
"""


def warm(folder):
    """Reads everything once, so that each run finds the page cache as the others do; and waits
    until what others have written is on disk."""
    subprocess.run(["sync"], check=True)
    command = 'find "$0" -type f -print0 | xargs -0 cat >/dev/null'
    subprocess.run(["sh", "-c", command, folder], check=True)


def megabytes_free(folder):
    return shutil.disk_usage(folder).free // MIB
