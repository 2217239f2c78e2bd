//! For tests: a store in memory whose requests go as a script says.

use crate::store::Store;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;

/// What becomes of one request.
pub enum Then {
    Go,
    /// It goes to another name.
    GoTo(String),
    /// Somebody else writes this object just before it.
    After(String, &'static str),
    /// It is never sent.
    Fail,
}

/// Called with method (`GET`, `PUT`, `DELETE`, `LIST`) and name.
type Script = dyn Fn(&str, &str) -> Then + Send + Sync;

struct Scripted {
    objects: Arc<dyn ObjectStore>,
    script: Arc<Script>,
}

impl Store {
    /// The same objects, asked for as `script` says.
    pub(crate) fn scripted(
        &self,
        script: impl Fn(&str, &str) -> Then + Send + Sync + 'static,
    ) -> Self {
        let Ok(mut inner) = Arc::try_unwrap(Self::memory().inner) else {
            panic!("a store that was just made has no clones")
        };
        let objects = Arc::clone(&self.inner.objects);
        inner.objects = Arc::new(Scripted { objects, script: Arc::new(script) });
        Self::of(inner)
    }
}

impl Scripted {
    async fn ask(&self, method: &str, location: &Path) -> Result<Path> {
        match (self.script)(method, location.as_ref()) {
            Then::Go => Ok(location.clone()),
            Then::GoTo(other) => Ok(Path::from_iter(other.split('/'))),
            Then::After(other, content) => {
                let other = Path::from_iter(other.split('/'));
                self.objects.put(&other, PutPayload::from_static(content.as_bytes())).await?;
                Ok(location.clone())
            }
            Then::Fail => Err(failed()),
        }
    }

    fn listed(&self, prefix: Option<&Path>) -> Result<Option<Path>> {
        let Some(prefix) = prefix else { return Ok(None) };
        match (self.script)("LIST", prefix.as_ref()) {
            Then::GoTo(other) => Ok(Some(Path::from_iter(other.split('/')))),
            Then::Fail => Err(failed()),
            Then::Go | Then::After(..) => Ok(Some(prefix.clone())),
        }
    }
}

fn failed() -> Error {
    Error::Generic { store: "scripted", source: "the script says no".into() }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

#[async_trait]
impl ObjectStore for Scripted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let location = self.ask("PUT", location).await?;
        self.objects.put_opts(&location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let location = self.ask("PUT", location).await?;
        self.objects.put_multipart_opts(&location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let location = self.ask("GET", location).await?;
        self.objects.get_opts(&location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let own = Self { objects: Arc::clone(&self.objects), script: Arc::clone(&self.script) };
        let own = Arc::new(own);
        locations
            .then(move |location| {
                let own = Arc::clone(&own);
                async move {
                    let location = location?;
                    let target = own.ask("DELETE", &location).await?;
                    own.objects.delete(&target).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.listed(prefix) {
            Ok(prefix) => self.objects.list(prefix.as_ref()),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(self.listed(prefix)?.as_ref()).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let to = self.ask("PUT", to).await?;
        self.objects.copy_opts(from, &to, options).await
    }
}
