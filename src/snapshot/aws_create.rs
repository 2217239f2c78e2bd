//! How EBS snapshots are created.
//!
//! Several volumes of one instance are asked for by one `CreateSnapshots`, which gives all of
//! them the same instant; where that is not allowed, or too many other volumes would have to be
//! left out, by one `CreateSnapshot` each, at the same time. EC2 fixes the point in time before
//! it answers.
//!
//! Neither call can be made idempotent, so each snapshot carries the run's marker as its
//! description: after an answer that was lost, snapshots of that description are looked for
//! before anything is asked for again. They are looked for by the marker alone, because a volume
//! that was attached after the instance was described is in no plan and yet in the answer; what
//! is beyond the plan is deleted at once. A tag says the same to whoever reads the bill.

use crate::cloud::{ApiError, Repeat};
use crate::snapshot::aws::{Aws, Made};
use crate::snapshot::aws_answers::{record_of, snapshot_name};
use crate::snapshot::ec2::Params;
use crate::snapshot::pending::MARKER_TAG;
use crate::snapshot::xml::Element;
use crate::snapshot::{
    CreateRequest, PlannedSnapshot, SnapshotCloud, SnapshotError, SnapshotErrorKind, SnapshotRecord,
};
use futures::future::{join_all, try_join_all};
use std::time::Duration;

/// How long a lost answer's snapshot may take to be seen.
pub(crate) const LOST_ANSWER_PAUSES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// How often a creating call is made while its answers are lost and nothing is found.
const CREATE_ROUNDS: u32 = 3;

/// More volumes cannot be left out of one `CreateSnapshots`, says its `ExcludeDataVolumeIds`.
const EXCLUDED_MAX: usize = 40;

/// Why nothing was created, as far as can be told.
enum Uncreated {
    Call(ApiError),
    Look(SnapshotError),
}

impl Aws {
    /// All planned snapshots, with one call or with one each.
    pub(crate) async fn create_all(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let others = request.instance.others.len();
        if request.planned.len() > 1 && others > EXCLUDED_MAX {
            tracing::warn!(
                others,
                "snapshots are created one by one: not more than {EXCLUDED_MAX} other volumes \
                 can be left out of all at once"
            );
        } else if request.planned.len() > 1
            && let Some(records) = self.create_together(request).await?
        {
            self.name_each(request.planned, &records).await?;
            return Ok(records);
        }
        self.create_each(request).await
    }

    /// One call for all volumes. `None` when it is not allowed or not known here.
    async fn create_together(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Option<Vec<SnapshotRecord>>, SnapshotError> {
        let others = request.instance.others.iter().map(String::as_str);
        let params = Params::default()
            .with("Description", request.marker)
            .with("InstanceSpecification.InstanceId", &request.instance.id)
            .with("InstanceSpecification.ExcludeBootVolume", "true")
            .list("InstanceSpecification.ExcludeDataVolumeId", others)
            .tags("snapshot", &tags(request, request.planned[0].name.as_str()));
        let action = format!("create snapshots of instance \"{}\"", request.instance.name);
        match self.create_once("CreateSnapshots", &params, request).await {
            Ok(set) => {
                self.remove_unplanned(request, &set).await?;
                self.sort(request, &set).map(Some)
            }
            Err(Uncreated::Call(error)) if is_not_offered(&error) => {
                tracing::warn!(
                    reason = %error,
                    "snapshots are created one by one: all of them at once was refused"
                );
                Ok(None)
            }
            Err(Uncreated::Call(error)) => Err(SnapshotError::of_call(&action, &error)),
            Err(Uncreated::Look(error)) => Err(error),
        }
    }

    /// Makes a creating call. After an answer that was lost, what it may have created is looked
    /// for; only when nothing is found is the call made again. Returns the created snapshots.
    async fn create_once(
        &self,
        action: &str,
        params: &Params,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<Element>, Uncreated> {
        let mut lost = None;
        for round in 1..=CREATE_ROUNDS {
            match self.ec2.call(action, params, Repeat::OnlyIfSurelyNot).await {
                Ok(answer) => {
                    let created: Vec<Element> = match answer.child("snapshotSet") {
                        Some(_) => answer.items("snapshotSet").cloned().collect(),
                        None => vec![answer],
                    };
                    self.note(request.marker, &created);
                    if round > 1 {
                        let removed = self.remove_doubles(request, &created).await;
                        removed.map_err(Uncreated::Look)?;
                    }
                    return Ok(created);
                }
                Err(error) if error.may_have_happened => {
                    let found = self.look_for(request).await.map_err(Uncreated::Look)?;
                    if !found.is_empty() {
                        self.note(request.marker, &found);
                        return Ok(found);
                    }
                    lost = Some(error);
                }
                Err(error) => return Err(Uncreated::Call(error)),
            }
        }
        Err(Uncreated::Call(lost.expect("every round that did not return was lost")))
    }

    /// What a call whose answer was lost has created, as soon as it shows.
    async fn look_for(&self, request: &CreateRequest<'_>) -> Result<Vec<Element>, SnapshotError> {
        for pause in LOST_ANSWER_PAUSES {
            tokio::time::sleep(pause).await;
            let found = self.marked(request.marker).await?;
            if self.sort(request, &found).is_ok() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// A lost call that showed its snapshots only after it was made again.
    async fn remove_doubles(
        &self,
        request: &CreateRequest<'_>,
        created: &[Element],
    ) -> Result<(), SnapshotError> {
        let kept: Vec<_> = created.iter().filter_map(|item| item.text("snapshotId")).collect();
        // One of several calls for one volume each knows nothing of what the others create.
        let concerns = |item: &&Element| match request.planned {
            [one] => item.text("volumeId") == Some(&one.volume.id),
            _ => true,
        };
        let marked = self.marked(request.marker).await?;
        for double in marked.iter().filter(concerns).filter_map(snapshot_name) {
            if !kept.contains(&double.identifier()) {
                self.delete(&double).await?;
            }
        }
        Ok(())
    }

    /// Deletes what was created of volumes that nobody asked for: they were attached after the
    /// instance was described. One that stays would be in no record, so it fails the backup.
    async fn remove_unplanned(
        &self,
        request: &CreateRequest<'_>,
        created: &[Element],
    ) -> Result<(), SnapshotError> {
        let planned = |item: &Element| {
            let volume = item.text("volumeId");
            request.planned.iter().any(|planned| volume == Some(&planned.volume.id))
        };
        for item in created.iter().filter(|item| !planned(item)) {
            let Some(record) = snapshot_name(item) else { continue };
            let volume = item.text("volumeId").unwrap_or_default();
            tracing::warn!(
                volume,
                snapshot = record.identifier(),
                "a volume was attached meanwhile, its snapshot is deleted"
            );
            self.delete(&record).await?;
        }
        Ok(())
    }

    /// Remembers what was created, so that it is found even while EC2 does not show it.
    fn note(&self, marker: &str, created: &[Element]) {
        for record in created.iter().filter_map(snapshot_name) {
            let made = Made { marker: marker.into(), record: record.clone() };
            self.made().insert(record.identifier().into(), made);
        }
    }

    /// The snapshots that carry the marker.
    pub(crate) async fn marked(&self, marker: &str) -> Result<Vec<Element>, SnapshotError> {
        let params = Params::default().list("Owner", ["self"]);
        let params = params.filter("description", [literal(marker).as_str()]);
        let found = self.ec2.describe("DescribeSnapshots", params, "snapshotSet").await;
        let found = found.map_err(|error| SnapshotError::of_call("look for snapshots", &error))?;
        Ok(found.into_iter().filter(|item| item.text("description") == Some(marker)).collect())
    }

    /// The record of each planned snapshot, by its volume.
    fn sort(
        &self,
        request: &CreateRequest<'_>,
        set: &[Element],
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let record = |planned: &PlannedSnapshot| {
            let volume = planned.volume.id.as_str();
            let found = set.iter().find(|item| item.text("volumeId") == Some(volume));
            found.and_then(|item| record_of(item, planned)).ok_or_else(|| {
                let message = format!("no snapshot of volume \"{volume}\" was created");
                SnapshotError::new(SnapshotErrorKind::Broken, message)
            })
        };
        request.planned.iter().map(record).collect()
    }

    /// Gives each snapshot its own name: `CreateSnapshots` gives all the same tags.
    async fn name_each(
        &self,
        planned: &[PlannedSnapshot],
        records: &[SnapshotRecord],
    ) -> Result<(), SnapshotError> {
        let name = async |planned: &PlannedSnapshot, record: &SnapshotRecord| {
            let id = record.identifier();
            let tags = [("Name".to_string(), planned.name.clone())];
            let params = Params::default().list("ResourceId", [id]).tag_list("Tag", &tags);
            let named = self.settled("CreateTags", &params).await;
            named
                .map_err(|error| SnapshotError::of_call(&format!("name snapshot \"{id}\""), &error))
        };
        try_join_all(planned.iter().zip(records).map(|(planned, record)| name(planned, record)))
            .await
            .map(drop)
    }

    /// One call per volume, all at the same time.
    async fn create_each(
        &self,
        request: &CreateRequest<'_>,
    ) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        // All are answered before the first failure is told: nothing is created behind our back.
        let each = request.planned.iter().map(|planned| self.create_one(request, planned));
        join_all(each).await.into_iter().collect()
    }

    async fn create_one(
        &self,
        request: &CreateRequest<'_>,
        planned: &PlannedSnapshot,
    ) -> Result<SnapshotRecord, SnapshotError> {
        let volume = &planned.volume.id;
        let params = Params::default()
            .with("VolumeId", volume)
            .with("Description", request.marker)
            .tags("snapshot", &tags(request, &planned.name));
        let action = format!("create snapshot \"{}\" of volume \"{volume}\"", planned.name);
        let one = CreateRequest { planned: std::slice::from_ref(planned), ..request.clone() };
        let created = self.create_once("CreateSnapshot", &params, &one).await;
        let created = created.map_err(|error| match error {
            Uncreated::Call(error) => SnapshotError::of_call(&action, &error),
            Uncreated::Look(error) => error,
        })?;
        // What was found after a lost answer may be of other volumes, too.
        let ours = |item: &&Element| item.text("volumeId").is_none_or(|id| id == volume);
        let item = created.iter().find(ours).cloned().unwrap_or_default();
        if item.text("status") == Some("error") {
            let message = format!("could not {action}: its state is \"error\"");
            return Err(SnapshotError::new(SnapshotErrorKind::Broken, message));
        }
        record_of(&item, planned).ok_or_else(|| {
            let message = format!("could not {action}: the answer names no snapshot");
            SnapshotError::new(SnapshotErrorKind::Broken, message)
        })
    }
}

/// The snapshot's name, what it is for, and the user's tags. A `Name` of the user would only be
/// overwritten.
fn tags(request: &CreateRequest<'_>, name: &str) -> Vec<(String, String)> {
    let ours = [("Name", name), (MARKER_TAG, request.marker)];
    let users = request.tags.iter().filter(|(key, _)| ours.iter().all(|(own, _)| key != own));
    let ours = ours.map(|(key, value)| (key.to_string(), value.to_string()));
    ours.into_iter().chain(users.cloned()).collect()
}

/// A text as the value of a filter, where `*` and `?` mean anything.
/// Source: "List and filter your resources", wildcards.
fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Whether a failure means that the call itself is not to be had, so that another may be.
fn is_not_offered(error: &ApiError) -> bool {
    error.is_denied()
        || error.status == Some(501)
        || error.has_code(&["InvalidAction", "UnsupportedOperation", "Unsupported"])
}

#[cfg(test)]
mod tests {
    use crate::snapshot::aws_create::literal;

    #[test]
    fn a_marker_is_looked_for_to_the_letter() {
        assert_eq!(literal("backup of a*b? by c\\d"), "backup of a\\*b\\? by c\\\\d");
    }
}
