//! openraft's view of the state machine: [`Intent`], held in memory, rebuilt at a start from the last snapshot and the
//! committed entries after it. Decides nothing about intent; publishes each state after an apply.

use std::{io::Cursor, sync::Arc};

use openraft::{
    AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, StorageIOError, storage::RaftStateMachine,
};
use portolan_config::{Applied, Intent, IntentError, RegionMap};
use tokio::sync::watch;

use crate::{
    saved_snapshot::SavedSnapshot,
    store::Store,
    types::{Entry, LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig},
};

/// The replicated state with its place in the log.
pub struct Machine {
    store: Store,
    regions: Arc<RegionMap>,
    state: State,
    publish: Publish,
}

/// One consistent reading of the machine.
#[derive(Clone, Debug)]
pub struct State {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub intent: Arc<Intent>,
}

impl State {
    /// Before any entry.
    pub fn empty(regions: Arc<RegionMap>) -> Self {
        Self { applied: None, membership: StoredMembership::default(), intent: Arc::new(Intent::new(regions)) }
    }

    /// As a snapshot has it.
    pub fn read(saved: &SavedSnapshot, regions: &Arc<RegionMap>) -> Result<Self, IntentError> {
        let intent = Intent::from_bytes(&saved.state, Arc::clone(regions)).map(Arc::new)?;
        let SnapshotMeta { last_log_id: applied, last_membership: membership, .. } = saved.meta.clone();
        Ok(Self { applied, membership, intent })
    }
}

/// Where readings go after every change.
#[derive(Clone)]
pub struct Publish {
    pub state: watch::Sender<State>,
    pub intent: watch::Sender<Arc<Intent>>,
}

impl Publish {
    /// Tells everybody who follows.
    pub fn reading(&self, state: &State) {
        self.state.send_replace(state.clone());
        self.intent.send_if_modified(|intent| {
            let changed = !Arc::ptr_eq(intent, &state.intent);
            *intent = Arc::clone(&state.intent);
            changed
        });
    }
}

impl Machine {
    /// Starts from the saved snapshot, or from nothing. A snapshot that this node's code does not read is refused with
    /// the reason.
    pub fn new(store: Store, regions: Arc<RegionMap>, publish: Publish) -> Result<Self, IntentError> {
        let state = match store.snapshot() {
            None => State::empty(Arc::clone(&regions)),
            Some(saved) => State::read(&saved, &regions)?,
        };
        let machine = Self { store, regions, state, publish };
        machine.publish();
        Ok(machine)
    }

    fn publish(&self) {
        self.publish.reading(&self.state);
    }

    fn apply_one(&mut self, entry: Entry) -> Option<Applied> {
        self.state.applied = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(command) => Some(Arc::make_mut(&mut self.state.intent).apply(&command)),
            EntryPayload::Membership(membership) => {
                self.state.membership = StoredMembership::new(Some(entry.log_id), membership);
                None
            }
        }
    }
}

/// A reading as a snapshot.
pub fn snapshot_of(reading: &State) -> Result<SavedSnapshot, StorageError> {
    let state = reading.intent.to_bytes().map_err(|error| StorageIOError::read_state_machine(&error))?;
    let snapshot_id = reading.applied.map_or_else(|| "0-0".to_owned(), |id| format!("{}-{}", id.leader_id, id.index));
    let meta = SnapshotMeta { last_log_id: reading.applied, last_membership: reading.membership.clone(), snapshot_id };
    Ok(SavedSnapshot { meta, state: state.into() })
}

fn for_openraft(saved: SavedSnapshot) -> Snapshot<TypeConfig> {
    Snapshot { meta: saved.meta, snapshot: Box::new(Cursor::new(saved.state.to_vec())) }
}

/// Holds one state while it is saved.
pub struct Builder {
    store: Store,
    reading: State,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let saved = snapshot_of(&self.reading)?;
        self.store.save_snapshot(saved.clone()).await?;
        Ok(for_openraft(saved))
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Applied>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let outcomes = entries.into_iter().map(|entry| self.apply_one(entry)).collect();
        self.publish();
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { store: self.store.clone(), reading: self.state.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let saved = SavedSnapshot { meta: meta.clone(), state: snapshot.into_inner().into() };
        let state = State::read(&saved, &self.regions)
            .map_err(|error| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(&error)))?;
        self.store.save_snapshot(saved).await?;
        self.state = state;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(self.store.snapshot().map(for_openraft))
    }
}
