//! A bucket that is in another region than the commands were told: learnt once, for every request
//! of a command, and for the next command.

use crate::support::commands::{COMMANDS, Commands};
use crate::support::fixtures::{SERVER, put_backups, segment, segment_name};
use crate::support::front::{Elsewhere, Front};
use crate::support::process::{Outcome, run};
use crate::support::scratch::{give_to_postgres, private_folder, scratch};
use crate::support::stores::{StoreKind, StoreUnderTest};
use barman_cloud::cloud::{CloudProvider, Environment};
use barman_cloud::flow::RetryLimits;
use barman_cloud::store::{ObjectKey, PutMode, PutOptions, Store, StoreOptions, StoreUrl};
use bytes::Bytes;
use futures::future::join_all;
use std::fs;
use std::path::Path;

/// Where the bucket is; everybody is told `us-east-1`.
const REGION: &str = "eu-west-1";

/// A bucket of the emulator behind a front that serves [`REGION`] alone.
struct Scene {
    store: StoreUnderTest,
    front: Front,
    ours: Commands,
}

impl Scene {
    fn set(elsewhere: Elsewhere) -> Option<Self> {
        let mut store = StoreUnderTest::open(StoreKind::S3)?;
        let front = Front::open(&store.options[3], REGION, elsewhere);
        store.options[3] = front.url();
        Some(Self { store, front, ours: Commands::ours() })
    }

    fn run(&self, name: &str, cache: &Path, positionals: &[&str]) -> Outcome {
        assert!(COMMANDS.contains(&name));
        let mut command = self.ours.command(name, &self.store, &[], positionals);
        run(command.env("BARMAN_CLOUD_CACHE", cache))
    }
}

const BOTH: [Elsewhere; 2] = [Elsewhere::Redirect, Elsewhere::Malformed];

#[tokio::test]
async fn every_request_in_flight_follows_a_bucket_to_its_region() {
    for elsewhere in BOTH {
        let Some(scene) = Scene::set(elsewhere) else { return };
        let url = StoreUrl::parse(&scene.store.url, CloudProvider::AwsS3).expect("a URL");
        let mut options =
            StoreOptions::new(RetryLimits { attempts_max: 1, ..RetryLimits::PATIENT });
        options.endpoint_url = Some(scene.front.url());
        let variables = scene.store.environment.iter();
        let variables = variables.map(|(name, value)| (name.as_str(), value.as_str()));
        let store = Store::open_in(&url, &options, &Environment::of(variables)).expect("a store");
        let puts = (0..16).map(|number| {
            let store = store.clone();
            async move {
                let key = ObjectKey::parse(&format!("object-{number}")).expect("a key");
                let options = PutOptions::default();
                store.put(&key, Bytes::from("content"), PutMode::Create, &options).await?;
                store.get(&key).await
            }
        });
        for got in join_all(puts).await {
            assert_eq!(got, Ok(Some(Bytes::from("content"))), "{elsewhere:?}");
        }
        assert_eq!(scene.front.sent_away(), 16, "all that were in flight, and none later");
    }
}

#[test]
fn commands_work_on_a_bucket_in_another_region_each_time() {
    for elsewhere in BOTH {
        let Some(scene) = Scene::set(elsewhere) else { return };
        put_backups(&scene.store);
        let (folder, off) = (scratch(), Path::new("off"));
        for number in 1..=4 {
            let name = segment_name(100 + number);
            let source = folder.path().join(&name);
            fs::write(&source, segment(100 + number)).expect("write");
            give_to_postgres(&source);
            let source = source.display().to_string();
            let target = format!("{source}.back");
            scene.run("barman-cloud-wal-archive", off, &["walmain", &source]).exits(0);
            scene.run("barman-cloud-wal-restore", off, &["walmain", &name, &target]).exits(0);
            assert_eq!(fs::read(&target).expect("fetched"), segment(100 + number));
            let listed = scene.run("barman-cloud-backup-list", off, &[SERVER]).ok();
            assert!(listed.contains("20261121T000057"), "{listed}");
        }
        assert!(scene.front.sent_away() >= 12, "{elsewhere:?}");
    }
}

#[test]
fn the_next_command_goes_to_the_region_at_once() {
    for elsewhere in BOTH {
        let Some(scene) = Scene::set(elsewhere) else { return };
        let folder = scratch();
        let cache = private_folder(folder.path(), "cache");
        let list = || scene.run("barman-cloud-backup-list", &cache, &["main"]).exits(0);
        list();
        let learnt = scene.front.sent_away();
        assert!(learnt > 0);
        list();
        list();
        assert_eq!(scene.front.sent_away(), learnt, "{elsewhere:?}");
        assert!(scene.front.passed_on() >= 3);
    }
}
