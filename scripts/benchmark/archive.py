"""An archive of thousands of backups and WAL files, made directly in the S3 server's folders.

What it holds looks as if Barman had written it; for these commands the records that they keep
beside it can be added. WAL objects are tiny, because nobody reads them."""

import datetime
import os
import shutil

# A file may have this many names on ext4; the next object gets a file of its own.
LINKS_MAX = 60_000
SEGMENTS_PER_LOG = 256


class Objects:
    """Puts files where versitygw finds them as objects. Many names share one file: made in
    seconds, and nobody writes to them."""

    def __init__(self, root):
        self.root = root
        self.source, self.left = None, 0

    def put(self, key, content):
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.setxattr(path, "user.etag", b'"00000000000000000000000000000000"')

    def put_same(self, keys, content):
        """Many objects of one content, in one folder."""
        (self.root / keys[0]).parent.mkdir(parents=True, exist_ok=True)
        for key in keys:
            if self.left == 0:
                self.put(key, content)
                self.source, self.left = self.root / key, LINKS_MAX
                continue
            os.link(self.source, self.root / key)
            self.left -= 1


class Archive:
    """`backups` backups of one server, one a day, with `wals` WAL files spread over them."""

    def __init__(self, store, prefix, backups, wals):
        self.store, self.prefix, self.backups, self.wals = store, prefix, backups, wals
        self.place = f"s3://{store.bucket.name}/{prefix}"
        self.first = datetime.datetime(2020, 1, 1, 1, tzinfo=datetime.timezone.utc)

    def build(self):
        """Everything, or again what was deleted since."""
        objects = Objects(self.store.bucket)
        for number in range(self.backups):
            self.put_backup(objects, number)
        for log in range(-(-self.wals // SEGMENTS_PER_LOG)):
            begin = log * SEGMENTS_PER_LOG
            numbers = range(begin, min(begin + SEGMENTS_PER_LOG, self.wals))
            folder = f"{self.prefix}/main/wals/{1:08X}{log:08X}"
            names = [f"{folder}/{segment(number)}.gz" for number in numbers]
            if not (self.store.bucket / folder).exists():
                objects.put_same(names, b"\x1f\x8b")
                continue
            for name in names:
                if not (self.store.bucket / name).exists():
                    objects.put(name, b"\x1f\x8b")

    def put_backup(self, objects, number):
        began = self.first + datetime.timedelta(days=number)
        ended = began + datetime.timedelta(minutes=20)
        folder = f"{self.prefix}/main/base/{began:%Y%m%dT%H%M%S}"
        if (self.store.bucket / folder / "backup.info").exists():
            return
        wal = number * (self.wals // self.backups) if self.wals else number
        objects.put(f"{folder}/data.tar.gz", b"\x1f\x8b")
        objects.put(f"{folder}/backup.info", backup_info(began, ended, wal).encode())

    def remove(self):
        shutil.rmtree(self.store.bucket / self.prefix, ignore_errors=True)


def segment(number):
    return f"{1:08X}{number // SEGMENTS_PER_LOG:08X}{number % SEGMENTS_PER_LOG:08X}"


def lsn(number, offset):
    return f"{number // SEGMENTS_PER_LOG:X}/{number % SEGMENTS_PER_LOG:02X}{offset:06X}"


def backup_info(began, ended, wal):
    """As Barman 3.19.1 writes it."""
    stamp = "%Y-%m-%d %H:%M:%S.%f+00:00"
    return f"""backup_label='START WAL LOCATION: {lsn(wal, 40)} (file {segment(wal)})\\nCHECKPOINT LOCATION: {lsn(wal, 96)}\\nBACKUP METHOD: streamed\\nBACKUP FROM: primary\\nSTART TIME: {began:%Y-%m-%d %H:%M:%S} UTC\\nLABEL: Barman cloud backup\\nSTART TIMELINE: 1\\n'
backup_name=None
begin_offset=40
begin_time={began.strftime(stamp)}
begin_wal={segment(wal)}
begin_xlog={lsn(wal, 40)}
children_backup_ids=None
cluster_size=1475352099
compression=gzip
config_file=/var/lib/postgresql/15/main/postgresql.conf
copy_stats={{'copy_time': 1200.0, 'total_time': 1200.0}}
data_checksums=on
deduplicated_size=None
encryption=None
end_offset=256
end_time={ended.strftime(stamp)}
end_wal={segment(wal)}
end_xlog={lsn(wal, 256)}
error=None
hba_file=/var/lib/postgresql/15/main/pg_hba.conf
ident_file=/var/lib/postgresql/15/main/pg_ident.conf
included_files=None
mode=None
parent_backup_id=None
pgdata=/var/lib/postgresql/15/main
server_name=cloud
size=None
snapshots_info=None
status=DONE
summarize_wal=None
systemid=7710407064033732751
tablespaces=[]
timeline=1
version=150020
xlog_segment_size=16777216
"""
