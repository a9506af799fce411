//! Stores in real directories.

use std::{fs, sync::Arc};

use portolan_raft::{DiskFile, Store, StoreError};

#[test]
fn a_directory_keeps_its_member_and_has_one_user() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open_directory(directory.path(), &Arc::default()).expect("opens");
    assert!(matches!(Store::open_directory(directory.path(), &Arc::default()), Err(StoreError::InUse)));
    let member = store.member();
    drop(store);
    let store = Store::open_directory(directory.path(), &Arc::default()).expect("opens again");
    assert_eq!(store.member(), member);
    assert!(!store.disk_full());
}

#[test]
fn damage_anywhere_in_the_log_is_found_and_the_file_is_kept_under_another_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join(DiskFile::Log.name());
    let mut member = Store::open_directory(directory.path(), &Arc::default()).expect("opens").member();
    let whole = fs::read(&log).expect("reads");
    let mut found = 0;
    for at in (0..whole.len()).step_by(whole.len() / 60) {
        let mut damaged = whole.clone();
        let end = (at + 4096).min(damaged.len());
        damaged[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        fs::write(&log, &damaged).expect("writes");
        let store = Store::open_directory(directory.path(), &Arc::default()).expect("opens in any case");
        if let [damage] = store.damage() {
            found += 1;
            assert_eq!(damage.kept_as, format!("raft.redb.damaged-{found}"));
            assert_eq!(fs::read(directory.path().join(&damage.kept_as)).expect("is kept"), damaged);
            assert_ne!(store.member(), member);
        }
        member = store.member();
        drop(store);
        fs::write(&log, &whole).expect("writes");
        member = Store::open_directory(directory.path(), &Arc::default()).map_or(member, |store| store.member());
    }
    // Pages that hold nothing may rot unseen.
    assert!(found > 0);
}

#[test]
fn a_truncated_log_is_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    drop(Store::open_directory(directory.path(), &Arc::default()).expect("opens"));
    let log = directory.path().join(DiskFile::Log.name());
    let whole = fs::read(&log).expect("reads");
    for len in [1, 100, 4096, whole.len() / 2] {
        fs::write(&log, &whole[..len]).expect("writes");
        let store = Store::open_directory(directory.path(), &Arc::default()).expect("opens in any case");
        assert_eq!(store.damage().len(), 1, "{len} bytes");
    }
}
