//! What outlives the daemon: guests, in a database that survives a crash at any moment.
//!
//! One table, a record of JSON for each guest. A record is written before the daemon does what it says
//! (a QEMU is started) or says what it did (an answer, an event), so that a daemon that is killed finds
//! everything again that it has started.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};
use serde::{Deserialize, Serialize};

const GUESTS: TableDefinition<'_, &str, &str> = TableDefinition::new("guests");
/// Numbers of migrations that brought a guest here, in their order.
const ARRIVED: TableDefinition<'_, u64, &str> = TableDefinition::new("arrived");

/// How many migrations are remembered that brought a guest here.
pub(crate) const REMEMBERED: usize = 1024;

/// How long a daemon that is ending may keep the database.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Makes a directory that is nobody's but this user's, if it is not there.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn private_dir(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// What is kept of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its definition, if it has one, as XML.
    pub definition: Option<String>,
    /// Whether it is started with the daemon.
    pub autostart: bool,
    /// Its process, if it has one.
    pub live: Option<LiveRecord>,
    /// Its state and the reason.
    pub state: (i32, i32),
    /// The migration that it is bound to, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationRecord>,
}

/// What is kept of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationRecord {
    /// Whether the guest leaves; else it arrives.
    pub source: bool,
    /// How far it is: a word of `pagelift_v3::phase`.
    pub phase: String,
    /// The number of the migration.
    pub id: String,
    /// The guest's name on the source.
    pub name: String,
    /// Its name on the target.
    pub target_name: String,
    /// Where the target can be asked.
    pub ask: Option<String>,
    /// The guest's state before.
    pub before: (i32, i32),
    /// libvirt's flags.
    pub flags: u32,
    /// On the source: whether the target is known to be a daemon like this one.
    #[serde(default)]
    pub alike: bool,
}

/// What is kept of a guest's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveRecord {
    /// What runs, as XML.
    pub xml: String,
    /// The guest's number.
    pub id: u32,
    /// Whether somebody was told that it runs. If nobody was, it is ended when the daemon comes back.
    pub announced: bool,
}

/// The database cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct StoreError {
    path: PathBuf,
    why: String,
}

/// The database.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// The database in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be opened: another daemon may have it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("guests.redb");
        let failed = |why: String| StoreError {
            path: path.clone(),
            why,
        };
        private_dir(dir).map_err(|why| failed(why.to_string()))?;
        let deadline = std::time::Instant::now() + LOCK_PATIENCE;
        let database = loop {
            match Database::create(&path) {
                Ok(database) => break database,
                Err(DatabaseError::DatabaseAlreadyOpen) if std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => {
                    return Err(failed("another pageliftd uses it".into()));
                }
                Err(why) => return Err(failed(why.to_string())),
            }
        };
        Ok(Self { path, database })
    }

    fn failed(&self, why: impl Into<redb::Error>) -> StoreError {
        StoreError {
            path: self.path.clone(),
            why: why.into().to_string(),
        }
    }

    /// All guests, by UUID.
    ///
    /// # Errors
    /// When the database cannot be read, or a record is none.
    pub fn all(&self) -> Result<Vec<(String, Record)>, StoreError> {
        let transaction = self.database.begin_read().map_err(|e| self.failed(e))?;
        let table = match transaction.open_table(GUESTS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let mut guests = Vec::new();
        for row in table.iter().map_err(|e| self.failed(e))? {
            let (uuid, text) = row.map_err(|e| self.failed(e))?;
            let record = serde_json::from_str(text.value()).map_err(|why| StoreError {
                path: self.path.clone(),
                why: format!("guest {}: {why}", uuid.value()),
            })?;
            guests.push((uuid.value().to_owned(), record));
        }
        Ok(guests)
    }

    /// Keeps `record` of the guest `uuid`. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, uuid: &str, record: &Record) -> Result<(), StoreError> {
        let text = serde_json::to_string(record).map_err(|why| StoreError {
            path: self.path.clone(),
            why: why.to_string(),
        })?;
        self.change(|table| table.insert(uuid, &*text).map(drop))
    }

    /// Forgets the guest `uuid`.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn remove(&self, uuid: &str) -> Result<(), StoreError> {
        self.change(|table| table.remove(uuid).map(drop))
    }

    /// Remembers that the migration `id` brought a guest here; the oldest of 1024 is forgotten.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn arrived(&self, id: &str) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(|e| self.failed(e))?;
        let kept = || -> Result<(), redb::Error> {
            let mut table = transaction.open_table(ARRIVED)?;
            let last = table.last()?.map_or(0, |(at, _)| at.value());
            table.insert(last + 1, id)?;
            while table.len()? > REMEMBERED as u64 {
                table.pop_first()?;
            }
            Ok(())
        };
        kept().map_err(|e| self.failed(e))?;
        transaction.commit().map_err(|e| self.failed(e))
    }

    /// The migrations that brought a guest here, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn all_arrived(&self) -> Result<Vec<String>, StoreError> {
        let transaction = self.database.begin_read().map_err(|e| self.failed(e))?;
        let table = match transaction.open_table(ARRIVED) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(error)),
        };
        let rows = table.iter().map_err(|e| self.failed(e))?;
        let ids = rows.map(|row| row.map(|(_, id)| id.value().to_owned()));
        ids.collect::<Result<_, _>>().map_err(|e| self.failed(e))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &str, &str>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(|e| self.failed(e))?;
        {
            let mut table = transaction.open_table(GUESTS).map_err(|e| self.failed(e))?;
            change(&mut table).map_err(|e| self.failed(e))?;
        }
        transaction.commit().map_err(|e| self.failed(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record {
            definition: Some("<domain/>".into()),
            state: (1, 1),
            live: Some(LiveRecord {
                xml: "<domain id='3'/>".into(),
                id: 3,
                announced: true,
            }),
            ..Record::default()
        };
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.all().unwrap(), []);
        store.put("a", &Record::default()).unwrap();
        store.put("a", &record).unwrap();
        store.put("b", &record).unwrap();
        store.remove("b").unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.all().unwrap(), [("a".to_owned(), record)]);
    }

    #[test]
    fn the_last_migrations_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(store.all_arrived().unwrap().is_empty());
        for id in ["x", "y", "z"] {
            store.arrived(id).unwrap();
        }
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.all_arrived().unwrap(), ["x", "y", "z"]);
    }
}
