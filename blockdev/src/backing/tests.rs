use std::os::unix::fs::FileExt;

use super::*;

fn sized_file(dir: &Path, name: &str, bytes: u64) -> PathBuf {
    let path = dir.join(name);
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    path
}

#[test]
fn a_file_is_claimed_once_and_free_again_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = sized_file(dir.path(), "disk", (8 << 20) + 700);
    let first = OpenOptions::default().open(&path).unwrap();
    assert_eq!(first.kind(), BackingKind::RegularFile);
    assert_eq!(first.size_bytes(), (8 << 20) + 700);
    assert_eq!(first.size_sectors(), (8 << 11) + 1);
    for options in [OpenOptions::default(), OpenOptions { read_only: true, buffered: true, part: None }] {
        let error = options.open(&path).unwrap_err();
        assert!(matches!(&error, BackingError::InUse { path: named } if *named == path), "{error}");
    }
    drop(first);
    open_again(OpenOptions::default(), &path);
}

/// Opens what was closed a moment ago. A process that another test starts has a copy of the descriptor until it is itself.
fn open_again(options: OpenOptions, path: &Path) -> Backing {
    for _ in 0..200 {
        match options.open(path) {
            Err(BackingError::InUse { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} is still in use", path.display());
}

/// An operation under way holds the open file. What it writes may reach the disk at any later time.
#[test]
fn a_claim_lasts_until_the_last_operation_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = sized_file(dir.path(), "disk", 1 << 20);
    let device = LoopDevice::new(&path, 512);
    let part = Some(Part { offset_bytes: 0, len_bytes: 65536 });
    for (disk, part) in [(&path, None), (&path, part), (&device.0, None), (&device.0, part)] {
        let options = OpenOptions { part, ..OpenOptions::default() };
        let backing = open_again(options, disk);
        let under_way = backing.as_fd().try_clone_to_owned().unwrap();
        drop(backing);
        assert!(matches!(options.open(disk).unwrap_err(), BackingError::InUse { .. }), "{part:?}");
        drop(under_way);
        open_again(options, disk);
    }
}

/// The slots of a device that holds the metadata of several volumes.
#[test]
fn parts_of_a_device_or_file_are_claimed_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = sized_file(dir.path(), "disk", 1 << 20);
    let device = LoopDevice::new(&path, 512);
    for disk in [&path, &device.0] {
        let slot = |n: u64| {
            let part = Part { offset_bytes: n * 65536, len_bytes: 65536 };
            OpenOptions { part: Some(part), ..OpenOptions::default() }
        };
        let (first, second) = (slot(0).open(disk).unwrap(), slot(1).open(disk).unwrap());
        assert!(matches!(slot(1).open(disk).unwrap_err(), BackingError::InUse { .. }));
        drop(second);
        open_again(slot(1), disk);
        assert!(matches!(slot(0).open(disk).unwrap_err(), BackingError::InUse { .. }));
        drop(first);
    }
}

#[test]
fn growth_is_seen_when_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = sized_file(dir.path(), "disk", 1 << 20);
    let mut backing = OpenOptions::default().open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    assert_eq!(backing.size_bytes(), 1 << 20);
    assert_eq!(backing.measure().unwrap(), 2 << 20);
    assert_eq!(backing.size_sectors(), 4096);
}

#[test]
fn probing_changes_neither_contents_nor_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let contents: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    std::fs::write(&path, &contents).unwrap();
    let backing = OpenOptions::default().open(&path).unwrap();
    assert_eq!(backing.limits().logical_block_bytes, 512);
    drop(backing);
    assert_eq!(std::fs::read(&path).unwrap(), contents);
}

/// Whatever the filesystem's unit is, the way that was chosen must serve single sectors.
#[test]
fn single_sectors_work_on_the_chosen_path() {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let dir = tempfile::tempdir().unwrap();
    let path = sized_file(dir.path(), "disk", 1 << 20);
    for buffered in [false, true] {
        let backing = open_again(OpenOptions { buffered, ..OpenOptions::default() }, &path);
        assert_eq!(backing.io_path() == IoPath::BufferedByChoice, buffered);
        let file = backing.claimed.file();
        let mut page = Page([7; 4096]);
        file.write_all_at(&page.0[..512], 512 * 3).unwrap();
        page.0.fill(0);
        file.read_exact_at(&mut page.0[..1024], 512 * 3).unwrap();
        assert!(page.0[..512].iter().all(|&b| b == 7) && page.0[512..1024].iter().all(|&b| b == 0));
    }
}

/// A disk of 4 KiB sectors, which direct I/O can only write as a whole. Clients and peers write 512 bytes.
#[test]
fn single_sectors_work_on_a_disk_with_larger_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = sized_file(dir.path(), "disk", 1 << 20);
    let disk = LoopDevice::new(&path, 4096);
    let backing = OpenOptions::default().open(&disk.0).unwrap();
    assert_eq!(backing.limits().logical_block_bytes, 4096);
    assert_eq!(backing.io_path(), IoPath::BufferedCoarse(4096));
    let error = OpenOptions::default().open(&disk.0).unwrap_err();
    assert!(matches!(error, BackingError::InUse { .. }), "{error}");
    let file = backing.claimed.file();
    file.write_all_at(&[7; 512], 512 * 3).unwrap();
    file.sync_data().unwrap();
    drop(backing);
    assert_eq!(std::fs::read(&path).unwrap()[512 * 2..512 * 5], [[0; 512], [7; 512], [0; 512]].concat());

    let disk = LoopDevice::new(&path, 512);
    assert_eq!(OpenOptions::default().open(&disk.0).unwrap().io_path(), IoPath::Direct);
}

/// Needs root, as all tests of real devices.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(file: &Path, sector_bytes: u32) -> LoopDevice {
        let mut losetup = std::process::Command::new("losetup");
        losetup.args(["--find", "--show", "--sector-size", &sector_bytes.to_string()]).arg(file);
        let made = losetup.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        LoopDevice(String::from_utf8(made.stdout).unwrap().trim().into())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn other_things_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let error = OpenOptions::default().open(dir.path()).unwrap_err();
    assert!(matches!(error, BackingError::WrongKind { .. }));
    let error = OpenOptions::default().open(Path::new("/dev/null")).unwrap_err();
    assert_eq!(error.to_string(), "/dev/null is neither a block device nor a regular file");
    let error = OpenOptions::default().open(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, BackingError::Io { action: "find", .. }), "{error}");
}

#[test]
fn limits_come_from_the_queue_of_the_disk_also_for_a_partition() {
    let dir = tempfile::tempdir().unwrap();
    let partition = dir.path().join("sda/sda1");
    let queue = dir.path().join("sda/queue");
    std::fs::create_dir_all(&partition).unwrap();
    std::fs::create_dir_all(&queue).unwrap();
    let files = [
        ("logical_block_size", "512\n"),
        ("physical_block_size", "4096\n"),
        ("discard_granularity", "65536\n"),
        ("discard_max_bytes", "2147450880\n"),
        ("rotational", "1\n"),
        ("write_cache", "write through\n"),
    ];
    files.iter().for_each(|(name, text)| std::fs::write(queue.join(name), text).unwrap());
    std::fs::write(partition.join("discard_alignment"), "1024\n").unwrap();
    let expected = Limits {
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        discard: Some(DiscardLimits {
            granularity_bytes: 65536,
            alignment_bytes: 1024,
            max_bytes: 2_147_450_880,
        }),
        rotational: true,
        write_cache: false,
    };
    assert_eq!(probe::block_device_limits(&partition), expected);

    std::fs::write(queue.join("discard_max_bytes"), "0\n").unwrap();
    assert_eq!(probe::block_device_limits(&partition), Limits { discard: None, ..expected });

    let unknown = probe::block_device_limits(&dir.path().join("none/none"));
    assert_eq!((unknown.logical_block_bytes, unknown.write_cache, unknown.discard), (512, true, None));
}
