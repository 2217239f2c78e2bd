//! Listing objects: below a folder, or by the beginning of a name.
//!
//! A page that breaks off is asked for again from the last object that arrived, with the same
//! patience for each page.

use crate::cloud::Trace;
use crate::flow::Backoff;
use crate::store::handle::{folder_path, list_entry};
use crate::store::{ListEntry, Store, StoreError};
use futures::stream::{self, BoxStream, StreamExt};
use object_store::ObjectMeta;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;

type Pages = BoxStream<'static, object_store::Result<ObjectMeta>>;

/// Where a listing is, and how to go on.
struct Listing {
    store: Store,
    below: String,
    /// `None` at the end.
    pages: Option<Pages>,
    last: Option<Path>,
    /// What was listed before the break.
    floor: Option<Path>,
    trace: Trace,
    backoff: Backoff,
}

impl Store {
    /// Lists every object whose key starts with `prefix` followed by a slash (all objects when
    /// it is empty), in no promised order, page by page as it is consumed.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<ListEntry, StoreError>> {
        let below = prefix.trim_end_matches('/').to_string();
        let pages = self.objects().list(folder_path(&below).as_ref());
        let listing = Listing {
            store: self.clone(),
            below,
            pages: Some(pages),
            last: None,
            floor: None,
            trace: Trace::new(),
            backoff: Backoff::new(self.retry()),
        };
        stream::unfold(listing, |mut listing| async move {
            let entry = listing.next().await?;
            Some((entry, listing))
        })
        .boxed()
    }

    /// Lists the objects of one folder whose names start with the last segment of `prefix`
    /// (`wals/0000000100000000/0000000100000000000000FE`): a positive answer about all suffixes
    /// of one name, in one request. Folders below are not entered.
    pub async fn list_starting_with(&self, prefix: &str) -> Result<Vec<ListEntry>, StoreError> {
        let (trace, mut backoff) = (Trace::new(), Backoff::new(self.retry()));
        let objects = loop {
            let error = match self.follow(&trace, self.named(prefix)).await {
                Ok(objects) => break objects,
                Err(error) => self.list_error(prefix, &trace, &error),
            };
            match self.worth_another_try(&error, &trace, &mut backoff) {
                Some(delay) => self.pause(delay).await,
                None => return Err(error),
            }
        };
        let matching = objects.iter().filter(|meta| meta.location.as_ref().starts_with(prefix));
        matching
            .map(|meta| list_entry(meta).map_err(|error| self.list_error(prefix, &trace, &error)))
            .collect()
    }

    async fn named(&self, prefix: &str) -> object_store::Result<Vec<ObjectMeta>> {
        match &self.inner.names {
            Some(names) => list_by_name(names.as_ref(), prefix).await,
            None => {
                let folder = prefix.rsplit_once('/').and_then(|(folder, _)| folder_path(folder));
                let listed = self.objects().list_with_delimiter(folder.as_ref()).await?;
                Ok(listed.objects)
            }
        }
    }
}

impl Listing {
    async fn next(&mut self) -> Option<Result<ListEntry, StoreError>> {
        loop {
            let pages = self.pages.as_mut()?;
            let next = async { Ok(pages.next().await) };
            let error = match self.store.follow(&self.trace, next).await {
                Ok(None) => return None,
                Ok(Some(Ok(meta))) => match self.arrived(&meta) {
                    Some(entry) => return Some(entry),
                    None => continue,
                },
                Ok(Some(Err(error))) | Err(error) => error,
            };
            let error = self.store.list_error(&self.below, &self.trace, &error);
            match self.store.worth_another_try(&error, &self.trace, &mut self.backoff) {
                Some(delay) => {
                    self.store.pause(delay).await;
                    self.go_on();
                }
                None => {
                    self.pages = None;
                    return Some(Err(error));
                }
            }
        }
    }

    /// One object of a page; `None` when it was listed before the break.
    fn arrived(&mut self, meta: &ObjectMeta) -> Option<Result<ListEntry, StoreError>> {
        if self.floor.as_ref().is_some_and(|floor| meta.location <= *floor) {
            return None;
        }
        if self.trace.spent().0 > 1 {
            (self.trace, self.backoff) = (Trace::new(), Backoff::new(self.store.retry()));
        }
        self.last = Some(meta.location.clone());
        let entry = list_entry(meta);
        Some(entry.map_err(|error| self.store.list_error(&self.below, &self.trace, &error)))
    }

    fn go_on(&mut self) {
        tracing::debug!(below = %self.below, "listing on after a break");
        let folder = folder_path(&self.below);
        self.floor = self.last.clone();
        self.pages = Some(match &self.floor {
            Some(last) => self.store.objects().list_with_offset(folder.as_ref(), last),
            None => self.store.objects().list(folder.as_ref()),
        });
    }
}

/// All pages of the objects whose names begin so: one page, but for prefixes of many names.
async fn list_by_name(
    names: &dyn PaginatedListStore,
    prefix: &str,
) -> object_store::Result<Vec<ObjectMeta>> {
    // One character less: on Azure the library leaves out the object that has the very name, for
    // it could be the marker of a folder.
    let shorter = prefix.char_indices().next_back().map_or("", |(last, _)| &prefix[..last]);
    let mut objects = Vec::new();
    let mut page_token = None;
    loop {
        let delimiter = Some("/".into());
        let options =
            PaginatedListOptions { delimiter, page_token, ..PaginatedListOptions::default() };
        let page = names.list_paginated(Some(shorter), options).await?;
        objects.extend(page.result.objects);
        page_token = page.page_token;
        if page_token.is_none() {
            return Ok(objects);
        }
    }
}
