//! Reads a tarball in sequence and hands over each member.
//!
//! Understands what Barman (pax over ustar), GNU tar and we write: pax paths, sizes and owners,
//! GNU long names, hard links. Sparse files are refused. A tarball that ends without its end mark is an error, because
//! that is how one that was cut off at a member's boundary looks.

use crate::tarball::{MemberPath, MemberPathError};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use tar::EntryType;

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
/// Memory: one header and, of names longer than it holds, [`EXTENSION_BYTES_MAX`] at the most.
pub fn read_members<R, E>(
    reader: R,
    mut each: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
) -> Result<ReadCounts, E>
where
    R: Read,
    E: From<TarballReadError>,
{
    let mut stream = Stream { reader, bytes: 0 };
    let mut extensions = Extensions::default();
    let mut members = 0;
    while let Some(header) = stream.header()? {
        let kind = header.entry_type();
        let stored = header.entry_size().map_err(malformed)?;
        if extensions.take(kind, stored, &mut stream)? {
            continue;
        }
        let extensions = std::mem::take(&mut extensions);
        let stored = extensions.size.unwrap_or(stored);
        let member = member_of(&header, stored, extensions)?;
        members += 1;
        let mut content = (&mut stream).take(stored);
        each(&member, &mut content)?;
        let unread = content.limit();
        stream.skip(unread)?;
        stream.skip(padding(stored))?;
    }
    stream.drain_padding()?;
    Ok(ReadCounts { members, raw_bytes: stream.bytes })
}

/// Longer names and other extensions than this are no file system's.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
const BLOCK_BYTES: u64 = 512;

/// What extension members say of the member that follows.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    user_id: Option<u64>,
    group_id: Option<u64>,
    user_name: Option<Vec<u8>>,
    group_name: Option<Vec<u8>>,
}

impl Extensions {
    /// Whether this was one of them, and is read.
    fn take<R: Read>(
        &mut self,
        kind: EntryType,
        bytes: u64,
        stream: &mut Stream<R>,
    ) -> Result<bool, TarballReadError> {
        let is_one = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !is_one {
            return Ok(false);
        }
        let content = stream.extension(bytes)?;
        // GNU's names end with a zero; global extensions of git and others name no member.
        let name = || content.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        if kind.is_gnu_longname() {
            self.path = Some(name());
        } else if kind.is_gnu_longlink() {
            self.link = Some(name());
        } else if kind.is_pax_local_extensions() {
            self.take_pax(&content)?;
        }
        Ok(true)
    }

    /// Records of "length key=value\n"; values may hold any bytes.
    fn take_pax(&mut self, mut content: &[u8]) -> Result<(), TarballReadError> {
        let wrong = || TarballReadError::Malformed("a pax extension is malformed".into());
        while !content.is_empty() {
            let digits = content.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length = std::str::from_utf8(&content[..digits]).ok().and_then(|n| n.parse().ok());
            let length: usize = length.ok_or_else(wrong)?;
            let record = content.get(digits + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let number = || {
                let text = std::str::from_utf8(value).ok();
                text.and_then(|text| text.parse().ok()).ok_or_else(wrong)
            };
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(number()?),
                b"uid" => self.user_id = Some(number()?),
                b"gid" => self.group_id = Some(number()?),
                b"uname" => self.user_name = Some(value.to_vec()),
                b"gname" => self.group_name = Some(value.to_vec()),
                _ if key.starts_with(b"GNU.sparse.") => {
                    let name = String::from_utf8_lossy(key).into_owned();
                    return Err(TarballReadError::UnknownType { name, kind: 'S' });
                }
                _ => {}
            }
            content = &content[length..];
        }
        Ok(())
    }
}

fn member_of(
    header: &tar::Header,
    stored: u64,
    extensions: Extensions,
) -> Result<Member, TarballReadError> {
    let name = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || match extensions.link.or_else(|| Some(header.link_name_bytes()?.into_owned())) {
        Some(link) if !link.is_empty() => Ok(link),
        _ => Err(TarballReadError::Malformed("a link names no target".into())),
    };
    let kind = match header.entry_type() {
        // The oldest tars mark a directory by its trailing slash alone.
        EntryType::Regular if name.ends_with(b"/") => MemberKind::Directory,
        EntryType::Regular | EntryType::Continuous => MemberKind::File,
        EntryType::Directory => MemberKind::Directory,
        EntryType::Symlink => MemberKind::SymbolicLink(OsString::from_vec(link()?)),
        EntryType::Link => MemberKind::HardLink(parse_path(&link()?)?),
        EntryType::Fifo | EntryType::Char | EntryType::Block => MemberKind::Special,
        // Sparse files too: no backup holds one, and few bytes of it would fill any disk.
        other => {
            return Err(TarballReadError::UnknownType {
                name: String::from_utf8_lossy(&name).into_owned(),
                kind: char::from(other.as_byte()),
            });
        }
    };
    let id = |extension: Option<u64>, stored: io::Result<u64>| -> Result<u32, TarballReadError> {
        let id = extension.map_or(stored, Ok).map_err(malformed)?;
        u32::try_from(id).map_err(|_| TarballReadError::Malformed(format!("owner {id} is none")))
    };
    let text = |extension: Option<Vec<u8>>, stored: Option<&[u8]>| {
        let text = extension.unwrap_or_else(|| stored.unwrap_or_default().to_vec());
        String::from_utf8_lossy(&text).into_owned()
    };
    Ok(Member {
        path: parse_path(&name)?,
        mode: header.mode().map_err(malformed)? & 0o777,
        owner: MemberOwner {
            user_id: id(extensions.user_id, header.uid())?,
            group_id: id(extensions.group_id, header.gid())?,
            user_name: text(extensions.user_name, header.username_bytes()),
            group_name: text(extensions.group_name, header.groupname_bytes()),
        },
        modified: i64::try_from(header.mtime().map_err(malformed)?).unwrap_or(i64::MAX),
        bytes: if kind == MemberKind::File { stored } else { 0 },
        kind,
    })
}

fn parse_path(name: &[u8]) -> Result<MemberPath, TarballReadError> {
    MemberPath::parse(name).map_err(TarballReadError::Path)
}

/// Content is filled up to whole blocks.
fn padding(bytes: u64) -> u64 {
    (BLOCK_BYTES - bytes % BLOCK_BYTES) % BLOCK_BYTES
}

/// The tar stream, and how far it was read.
struct Stream<R> {
    reader: R,
    bytes: u64,
}

impl<R: Read> Stream<R> {
    /// The next header; `None` at the end mark, which is a block of zeros.
    fn header(&mut self) -> Result<Option<tar::Header>, TarballReadError> {
        let mut header = tar::Header::new_old();
        self.read_exact(header.as_mut_bytes()).map_err(cut)?;
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The sum of all bytes, with blanks in the place of the sum itself.
        let blanks = 8 * u32::from(b' ');
        let summed = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte));
        if summed.sum::<u32>() + blanks != header.cksum().map_err(malformed)? {
            return Err(TarballReadError::Malformed("the checksum of a header is wrong".into()));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, bytes: u64) -> Result<Vec<u8>, TarballReadError> {
        if bytes > EXTENSION_BYTES_MAX {
            let reason = format!("the name of a member takes {bytes} bytes");
            return Err(TarballReadError::Malformed(reason));
        }
        let mut content = Vec::new();
        self.take(bytes).read_to_end(&mut content).map_err(malformed)?;
        if u64::try_from(content.len()).ok() != Some(bytes) {
            return Err(TarballReadError::NoEndMark);
        }
        self.skip(padding(bytes))?;
        Ok(content)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), TarballReadError> {
        let skipped = io::copy(&mut self.take(bytes), &mut io::sink()).map_err(malformed)?;
        if skipped == bytes { Ok(()) } else { Err(TarballReadError::NoEndMark) }
    }

    /// Behind the end mark lie zeros up to the tar's record size.
    fn drain_padding(&mut self) -> Result<(), TarballReadError> {
        let mut buffer = [0u8; 16 << 10];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => {}
                Ok(_) => return Err(TarballReadError::DataBehindEndMark),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(malformed(error)),
            }
        }
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

/// A stream that ends inside a header has no end mark.
fn cut(error: io::Error) -> TarballReadError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarballReadError::NoEndMark,
        _ => malformed(error),
    }
}

/// Takes by value for `map_err`.
#[allow(clippy::needless_pass_by_value)]
fn malformed(error: io::Error) -> TarballReadError {
    TarballReadError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use crate::tarball::{
        Member, MemberKind, MemberPath, ReadCounts, TarballReadError, read_members,
    };
    use proptest::prelude::{any, proptest};

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

    /// Appends a member of a kind, as it is.
    fn raw(builder: &mut tar::Builder<Vec<u8>>, kind: u8, size: u64, content: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_path("x").expect("short");
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        builder.append(&header, content).expect("in memory");
    }

    #[test]
    fn names_and_extensions_of_gigabytes_are_refused_before_they_are_read() {
        for kind in [b'L', b'K', b'x', b'g'] {
            let mut bytes = tarball(|builder| raw(builder, kind, 8 << 30, b""));
            bytes.truncate(512);
            let endless = std::io::Read::chain(bytes.as_slice(), std::io::repeat(b'a'));
            let read = read_members(endless, |_, _| Ok::<_, TarballReadError>(()));
            assert!(matches!(read, Err(TarballReadError::Malformed(_))), "{}", char::from(kind));
        }
    }

    #[test]
    fn pax_extensions_give_paths_sizes_and_owners_and_malformed_ones_are_refused() {
        let bytes = tarball(|builder| {
            let pax =
                b"19 path=dir/a\nb=c\n\n12 size=700\n14 uid=100000\n12 gname=me\n16 mtime=1.2345\n";
            raw(builder, b'x', 73, pax);
            raw(builder, b'0', 0, b"");
            builder.get_mut().extend([7; 700]);
            builder.get_mut().extend([0; 324]);
        });
        let (members, _) = read_all(&bytes).expect("whole");
        let (member, content) = &members[0];
        assert_eq!(member.path, MemberPath::parse(b"dir/a\nb=c\n").expect("path"));
        assert_eq!((member.bytes, content.len()), (700, 700));
        assert_eq!((member.owner.user_id, member.owner.group_name.as_str()), (100_000, "me"));
        for wrong in
            ["x", "3 a", "99 path=a\n", "0 path=a\n", "8 path=\n", "10 size=-1\n", "-1 a=b\n"]
        {
            let length = u64::try_from(wrong.len()).expect("small");
            let bytes = tarball(|builder| {
                raw(builder, b'x', length, wrong.as_bytes());
                raw(builder, b'0', 0, b"");
            });
            assert!(read_all(&bytes).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sparse_files_are_refused() {
        let old = tarball(|builder| raw(builder, b'S', 0, b""));
        let new = tarball(|builder| {
            raw(builder, b'x', 23, b"23 GNU.sparse.major=1\n\n");
            raw(builder, b'0', 0, b"");
        });
        for bytes in [old, new] {
            assert!(matches!(read_all(&bytes), Err(TarballReadError::UnknownType { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_read_for_ever(
            mut block in proptest::collection::vec(any::<u8>(), 512..2048),
            kind in any::<u8>(),
            size in any::<u64>(),
        ) {
            // A header that is right but for its fields leads deeper than noise does.
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes().copy_from_slice(&block[..512]);
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_size(size);
            header.set_cksum();
            block[..512].copy_from_slice(header.as_bytes());
            let _ = read_members(block.as_slice(), |_, _| Ok::<_, TarballReadError>(()));
        }
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
