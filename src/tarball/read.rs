//! Reads a tarball in sequence and hands over each member.
//!
//! Understands what Barman (pax over ustar), GNU tar and we write: pax paths, sizes and owners,
//! GNU long names, hard links. A tarball that ends without its end mark is an error, because
//! that is how one that was cut off at a member's boundary looks.

use crate::tarball::{MemberPath, MemberPathError};
use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;
use tar::{Archive, Entry, EntryType};

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberKind {
    File,
    Directory,
    /// With the text of the link, as stored.
    SymbolicLink(OsString),
    /// With the member that it is another name of.
    HardLink(MemberPath),
    /// Fifos and devices, which no PostgreSQL needs.
    Special,
}

/// Whose member it was; the names may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberOwner {
    pub user_id: u32,
    pub group_id: u32,
    pub user_name: String,
    pub group_name: String,
}

/// One member's facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub path: MemberPath,
    pub kind: MemberKind,
    /// Permission bits only: no set-user-ID, set-group-ID or sticky bit.
    pub mode: u32,
    pub owner: MemberOwner,
    /// Seconds since 1970.
    pub modified: i64,
    /// Bytes of content; zero unless it is a file.
    pub bytes: u64,
}

/// What a whole tarball held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    pub members: u64,
    /// Bytes of the tar stream, padding included.
    pub raw_bytes: u64,
}

/// The tarball is damaged, or names what must not be written.
#[derive(Debug, thiserror::Error)]
pub enum TarballReadError {
    #[error("{0}")]
    Path(MemberPathError),
    #[error("member \"{name}\" has the unknown type \"{kind}\"")]
    UnknownType { name: String, kind: char },
    #[error("the tarball ends before its end mark")]
    NoEndMark,
    #[error("the tarball has data behind its end mark")]
    DataBehindEndMark,
    /// The header or content could not be read or makes no sense.
    #[error("{0}")]
    Malformed(String),
}

/// Hands each member to `each`, in stored order, with a reader of its content, and reads the
/// stream to its very end so that checksums behind the last member are seen.
///
/// `each` may leave content unread. Its error ends the reading and is returned as it is.
pub fn read_members<R, E>(
    reader: R,
    mut each: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
) -> Result<ReadCounts, E>
where
    R: Read,
    E: From<TarballReadError>,
{
    let (reader, progress) = Watched::new(reader);
    let mut archive = Archive::new(reader);
    let mut members = 0;
    for entry in archive.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        if let Some(member) = member_of(&mut entry)? {
            members += 1;
            each(&member, &mut entry)?;
        }
    }
    if progress.at_end() {
        return Err(TarballReadError::NoEndMark.into());
    }
    drain_padding(&mut archive.into_inner())?;
    Ok(ReadCounts { members, raw_bytes: progress.bytes() })
}

/// `None` for headers that describe no member (pax global headers).
fn member_of(entry: &mut Entry<'_, impl Read>) -> Result<Option<Member>, TarballReadError> {
    let name = entry.path_bytes().into_owned();
    let kind = match entry.header().entry_type() {
        EntryType::XGlobalHeader => return Ok(None),
        // The oldest tars mark a directory by its trailing slash alone.
        EntryType::Regular if name.ends_with(b"/") => MemberKind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => MemberKind::File,
        EntryType::Directory => MemberKind::Directory,
        EntryType::Symlink => MemberKind::SymbolicLink(OsString::from_vec(link_name(entry)?)),
        EntryType::Link => MemberKind::HardLink(parse_path(&link_name(entry)?)?),
        EntryType::Fifo | EntryType::Char | EntryType::Block => MemberKind::Special,
        other => {
            return Err(TarballReadError::UnknownType {
                name: String::from_utf8_lossy(&name).into_owned(),
                kind: char::from(other.as_byte()),
            });
        }
    };
    let bytes = if kind == MemberKind::File { entry.size() } else { 0 };
    let header = entry.header();
    Ok(Some(Member {
        path: parse_path(&name)?,
        kind,
        mode: header.mode().map_err(malformed)? & 0o777,
        owner: owner_of(header)?,
        modified: i64::try_from(header.mtime().map_err(malformed)?).unwrap_or(i64::MAX),
        bytes,
    }))
}

fn link_name(entry: &Entry<'_, impl Read>) -> Result<Vec<u8>, TarballReadError> {
    match entry.link_name_bytes() {
        Some(name) if !name.is_empty() => Ok(name.into_owned()),
        _ => Err(TarballReadError::Malformed("a link names no target".into())),
    }
}

fn parse_path(name: &[u8]) -> Result<MemberPath, TarballReadError> {
    MemberPath::parse(name).map_err(TarballReadError::Path)
}

fn owner_of(header: &tar::Header) -> Result<MemberOwner, TarballReadError> {
    let number = |id: io::Result<u64>| -> Result<u32, TarballReadError> {
        let id = id.map_err(malformed)?;
        u32::try_from(id).map_err(|_| TarballReadError::Malformed(format!("owner {id} is none")))
    };
    let text = |name: Option<&[u8]>| String::from_utf8_lossy(name.unwrap_or(b"")).into_owned();
    Ok(MemberOwner {
        user_id: number(header.uid())?,
        group_id: number(header.gid())?,
        user_name: text(header.username_bytes()),
        group_name: text(header.groupname_bytes()),
    })
}

/// Behind the end mark lie zeros up to the tar's record size.
fn drain_padding(reader: &mut impl Read) -> Result<(), TarballReadError> {
    let mut buffer = [0u8; 16 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => {}
            Ok(_) => return Err(TarballReadError::DataBehindEndMark),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(malformed(error)),
        }
    }
}

/// Takes by value for `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn malformed(error: io::Error) -> TarballReadError {
    TarballReadError::Malformed(error.to_string())
}

/// A reader that knows how far it is: `tar` keeps its reader to itself while it reads.
struct Watched<R> {
    reader: R,
    progress: Rc<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    bytes: Cell<u64>,
    at_end: Cell<bool>,
}

impl Progress {
    fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    fn at_end(&self) -> bool {
        self.at_end.get()
    }
}

impl<R: Read> Watched<R> {
    fn new(reader: R) -> (Self, Rc<Progress>) {
        let progress = Rc::new(Progress::default());
        (Self { reader, progress: Rc::clone(&progress) }, progress)
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.progress.at_end.set(read == 0 && !buffer.is_empty());
        let more = u64::try_from(read).unwrap_or(u64::MAX);
        self.progress.bytes.set(self.progress.bytes.get().saturating_add(more));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use crate::tarball::{
        Member, MemberKind, MemberPath, ReadCounts, TarballReadError, read_members,
    };

    /// A tarball of what `fill` appends.
    fn tarball(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().expect("in memory")
    }

    fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o104_600);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        header.set_size(u64::try_from(content.len()).expect("small"));
        header.set_username("alice").expect("short");
        builder.append_data(&mut header, name, content).expect("in memory");
    }

    type Content = (Vec<(Member, Vec<u8>)>, ReadCounts);

    fn read_all(bytes: &[u8]) -> Result<Content, TarballReadError> {
        let mut members = Vec::new();
        let counts = read_members(bytes, |member, content| {
            let mut read = Vec::new();
            content.read_to_end(&mut read).expect("in memory");
            members.push((member.clone(), read));
            Ok::<_, TarballReadError>(())
        })?;
        Ok((members, counts))
    }

    #[test]
    fn a_file_comes_back_with_its_facts_and_without_its_special_mode_bits() {
        let bytes = tarball(|builder| append(builder, "base/5/1", b"content"));
        let (members, counts) = read_all(&bytes).expect("whole");
        let (member, content) = &members[0];
        assert_eq!(member.path, MemberPath::parse(b"base/5/1").expect("path"));
        assert_eq!(member.kind, MemberKind::File);
        assert_eq!((member.mode, member.modified, member.bytes), (0o600, 9, 7));
        assert_eq!((member.owner.user_id, member.owner.user_name.as_str()), (7, "alice"));
        assert_eq!(content, b"content");
        assert_eq!(counts.members, 1);
        assert_eq!(counts.raw_bytes, u64::try_from(bytes.len()).expect("small"));
    }

    #[test]
    fn long_names_and_links_are_read_whole() {
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(180));
        let bytes = tarball(|builder| {
            append(builder, &long, b"x");
            let mut header = tar::Header::new_gnu();
            header.set_metadata(&std::fs::metadata("/").expect("there is a root"));
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, "second", &long).expect("in memory");
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, "third", "/etc/passwd").expect("in memory");
        });
        let (members, _) = read_all(&bytes).expect("whole");
        let path = MemberPath::parse(long.as_bytes()).expect("path");
        assert_eq!(members[0].0.path, path);
        assert_eq!(members[1].0.kind, MemberKind::HardLink(path));
        assert_eq!(members[2].0.kind, MemberKind::SymbolicLink("/etc/passwd".into()));
    }

    #[test]
    fn a_tarball_cut_at_any_byte_is_noticed() {
        let whole = tarball(|builder| {
            append(builder, "a", &[0u8; 1024]);
            append(builder, "b", b"b");
        });
        for length in 0..whole.len() - 512 {
            assert!(read_all(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn padding_behind_the_end_mark_is_fine_and_data_is_not() {
        let mut bytes = tarball(|builder| append(builder, "a", b"a"));
        bytes.resize(20_480, 0);
        assert_eq!(read_all(&bytes).expect("padded").1.raw_bytes, 20_480);
        bytes.push(1);
        assert!(matches!(read_all(&bytes), Err(TarballReadError::DataBehindEndMark)));
    }

    #[test]
    fn a_member_that_leads_out_is_refused() {
        let bytes = tarball(|builder| {
            let mut header = tar::Header::new_ustar();
            header.set_size(0);
            header.as_mut_bytes()[..7].copy_from_slice(b"../evil");
            header.set_cksum();
            builder.append(&header, std::io::empty()).expect("in memory");
        });
        assert!(matches!(read_all(&bytes), Err(TarballReadError::Path(_))));
    }

    #[test]
    fn the_error_of_the_receiver_ends_the_reading() {
        let bytes = tarball(|builder| append(builder, "a", b"a"));
        let stopped = read_members(bytes.as_slice(), |_, _| {
            Err(TarballReadError::Malformed("enough".into()))
        });
        assert!(matches!(stopped, Err(TarballReadError::Malformed(reason)) if reason == "enough"));
    }
}
