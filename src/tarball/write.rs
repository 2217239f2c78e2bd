//! Writing one tarball.

use std::io::{self, Read, Write};
use std::path::Path;
use tar::{Builder, EntryType, Header};

/// Bytes per tar block: members begin on multiples of it (POSIX, "ustar Interchange Format").
const TAR_BLOCK_BYTES: u64 = 512;

/// Bytes to which the end of a tarball is padded (GNU tar's default blocking factor of 20).
const RECORD_BYTES: u64 = 10240;

/// Who owns a member; names win over numbers at extraction by root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: u64,
    pub gid: u64,
    pub user: String,
    pub group: String,
}

/// What a member's header tells beside its name and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMeta {
    /// Permission bits only.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
    pub owner: Owner,
}

/// Where a tarball goes, and who may read a member's content straight into its own memory.
pub trait ContentSink: Write {
    /// Takes up to `limit` bytes from `content` without a copy in between; zero at its end.
    fn fill_from(&mut self, content: &mut dyn Read, limit: u64) -> io::Result<u64>;
}

impl ContentSink for Vec<u8> {
    fn fill_from(&mut self, content: &mut dyn Read, limit: u64) -> io::Result<u64> {
        io::copy(&mut content.take(limit), self)
    }
}

/// Writes members one after another.
pub struct TarballWriter<W: ContentSink> {
    builder: Builder<Counted<W>>,
    members: u64,
}

impl<W: ContentSink> std::fmt::Debug for TarballWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarballWriter").field("members", &self.members).finish()
    }
}

/// Passes bytes on and counts them.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.bytes += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: ContentSink> TarballWriter<W> {
    pub fn new(sink: W) -> Self {
        Self { builder: Builder::new(Counted { inner: sink, bytes: 0 }), members: 0 }
    }

    pub fn members(&self) -> u64 {
        self.members
    }

    /// Bytes of the tar stream so far.
    pub fn bytes(&self) -> u64 {
        self.builder.get_ref().bytes
    }

    pub fn target(&mut self) -> &mut W {
        &mut self.builder.get_mut().inner
    }

    pub fn directory(&mut self, path: &Path, meta: &MemberMeta) -> io::Result<()> {
        let mut header = header(EntryType::Directory, 0, meta)?;
        self.members += 1;
        self.builder.append_data(&mut header, path, io::empty())
    }

    pub fn symlink(&mut self, path: &Path, target: &Path, meta: &MemberMeta) -> io::Result<()> {
        let mut header = header(EntryType::Symlink, 0, meta)?;
        self.members += 1;
        self.builder.append_link(&mut header, path, target)
    }

    /// Writes a regular file of exactly `bytes`. `content` must give exactly that many
    /// (a file that changes is cut or padded by who reads it), or the tarball is useless
    /// and an error says so. Gives the offset of the content in the tar stream.
    pub fn file(
        &mut self,
        path: &Path,
        bytes: u64,
        meta: &MemberMeta,
        content: &mut dyn Read,
    ) -> io::Result<u64> {
        let mut header = header(EntryType::Regular, bytes, meta)?;
        self.members += 1;
        // The header alone: the content goes around the builder, which would copy it.
        self.builder.append_data(&mut header, path, io::empty())?;
        let target = self.builder.get_mut();
        let offset = target.bytes;
        while target.bytes < offset + bytes {
            let left = offset + bytes - target.bytes;
            match target.inner.fill_from(content, left)? {
                0 => {
                    let message = format!("member \"{}\" ended early", path.display());
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                taken => target.bytes += taken,
            }
        }
        let padding = target.bytes.next_multiple_of(TAR_BLOCK_BYTES) - target.bytes;
        io::copy(&mut io::repeat(0).take(padding), target)?;
        Ok(offset)
    }

    /// Ends the tarball: two zero blocks, padded to a full record. Gives the sink back.
    pub fn finish(mut self) -> io::Result<W> {
        self.builder.finish()?;
        let mut counted = self.builder.into_inner()?;
        let padding = counted.bytes.next_multiple_of(RECORD_BYTES) - counted.bytes;
        io::copy(&mut io::repeat(0).take(padding), &mut counted)?;
        counted.flush()?;
        Ok(counted.inner)
    }
}

fn header(kind: EntryType, bytes: u64, meta: &MemberMeta) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(meta.mode);
    header.set_mtime(meta.modified);
    header.set_uid(meta.owner.uid);
    header.set_gid(meta.owner.gid);
    // Names that do not fit the header's 32 bytes are left out: numbers remain.
    if meta.owner.user.len() < 32 {
        header.set_username(&meta.owner.user)?;
    }
    if meta.owner.group.len() < 32 {
        header.set_groupname(&meta.owner.group)?;
    }
    header.set_cksum();
    Ok(header)
}

#[cfg(test)]
mod tests {
    use crate::tarball::{MemberMeta, Owner, TarballWriter};
    use std::io::Read;
    use std::path::Path;

    fn meta() -> MemberMeta {
        let owner = Owner { uid: 101, gid: 104, user: "postgres".into(), group: "postgres".into() };
        MemberMeta { mode: 0o600, modified: 1_700_000_000, owner }
    }

    #[test]
    fn members_come_back_with_names_of_any_length() {
        let long = format!("base/{}/{}", "d".repeat(120), "f".repeat(180));
        let mut writer = TarballWriter::new(Vec::new());
        writer.directory(Path::new("."), &MemberMeta { mode: 0o700, ..meta() }).expect("root");
        writer.file(Path::new(&long), 3, &meta(), &mut &b"abc"[..]).expect("file");
        writer.symlink(Path::new("link"), Path::new("target"), &meta()).expect("link");
        assert_eq!(writer.members(), 3);
        let stored = writer.finish().expect("end");
        assert_eq!(stored.len() % 10240, 0);
        let mut names = Vec::new();
        for entry in tar::Archive::new(&stored[..]).entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let name = entry.path().expect("path").display().to_string();
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("content");
            assert_eq!(entry.header().username().expect("utf-8"), Some("postgres"));
            names.push((name, content));
        }
        assert_eq!(names[1], (long, "abc".into()));
        assert_eq!(names[2].0, "link");
    }

    #[test]
    fn a_content_shorter_than_promised_is_an_error() {
        let mut writer = TarballWriter::new(Vec::new());
        assert!(writer.file(Path::new("f"), 4, &meta(), &mut &b"abc"[..]).is_err());
    }

    #[test]
    fn a_content_longer_than_promised_is_cut() {
        let mut writer = TarballWriter::new(Vec::new());
        writer.file(Path::new("f"), 2, &meta(), &mut &b"abc"[..]).expect("file");
        let stored = writer.finish().expect("end");
        let mut archive = tar::Archive::new(&stored[..]);
        let entry = archive.entries().expect("entries").next().expect("one").expect("entry");
        assert_eq!(entry.size(), 2);
    }
}
