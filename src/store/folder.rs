//! Listing one folder without entering those below.

use crate::cloud::Trace;
use crate::flow::Backoff;
use crate::store::bucket::Bucket;
use crate::store::handle::{folder_path, list_entry};
use crate::store::{ListEntry, Store, StoreError};

/// One level of the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FolderListing {
    pub objects: Vec<ListEntry>,
    /// Names of the folders directly below, without slashes. A folder is there as long as any
    /// object is below it.
    pub folders: Vec<String>,
}

impl Store {
    /// Whether a listing that names nothing below `folder` can be believed. A file system that is
    /// not mounted lists nothing either, so a folder of this machine must be there itself; an
    /// object store's listing is an answer of the bucket.
    pub fn vouches_for(&self, folder: &str) -> bool {
        match &self.inner.bucket {
            Bucket::Folder { path } => path.join(folder).is_dir(),
            Bucket::Memory | Bucket::S3(_) | Bucket::Azure(_) | Bucket::Google(_) => true,
        }
    }

    /// Lists the objects directly in a folder, and the names of the folders in it, in no promised
    /// order: one request for each thousand of both. The folder has no trailing slash.
    pub async fn list_folder(&self, folder: &str) -> Result<FolderListing, StoreError> {
        let (trace, mut backoff) = (Trace::new(), Backoff::new(self.retry()));
        let prefix = folder_path(folder);
        let listed = loop {
            let asked = self.objects().list_with_delimiter(prefix.as_ref());
            let error = match self.follow(&trace, asked).await {
                Ok(listed) => break listed,
                Err(error) => self.list_error(folder, &trace, &error),
            };
            match self.worth_another_try(&error, &trace, &mut backoff) {
                Some(delay) => self.pause(delay).await,
                None => return Err(error),
            }
        };
        let objects = listed.objects.iter().map(list_entry).collect::<Result<_, _>>();
        let objects = objects.map_err(|error| self.list_error(folder, &trace, &error))?;
        let names = listed.common_prefixes.iter().filter_map(|prefix| prefix.filename());
        Ok(FolderListing { objects, folders: names.map(String::from).collect() })
    }
}
