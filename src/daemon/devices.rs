//! Volumes as block devices of this machine. While this node is Primary, the kernel's nbd driver (if it is loaded) is a client
//! of each volume, and the device name of the configuration leads to `/dev/nbdN`.
//!
//! The device outlives the daemon: when that is killed or replaced, requests wait in the kernel until the next daemon has made
//! this node Primary again, at most for the dead-connection timeout.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use blockdev::nbd::export::ExportInfo;
use blockdev::nbd::kernel::{self, DeviceParams, Driver};
use model::config::settings::ResourceConfig;
use model::state::Role;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::sync::{Mutex, Notify};
use tracing::{info, warn};

use super::resources::{Running, vol_idx};
use crate::dataplane::WorkerHandle;

/// Looks again this long after something has failed.
const RETRY: Duration = Duration::from_millis(200);
/// A session that ends sooner was none: the kernel says yes to a socket that it does not take.
const SHORT_SESSION: Duration = Duration::from_secs(1);
/// How long the end of a device may take to be noticed.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// A device is in use if it is open each time: whoever only looks what is on it (udev does, on every occasion) is soon done.
const LOOKS: u32 = 6;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// A kernel without the driver is asked again so much later, or for the next promotion.
const DRIVER_AGAIN: Duration = Duration::from_secs(10);
/// The unit in which clients may read and write.
const BLOCK_BYTES: u32 = 512;

/// The devices of one resource.
pub struct Devices {
    /// None: the settings do not want any.
    dead_conn_timeout: Option<Duration>,
    volumes: Vec<Volume>,
    /// Only one at a time makes or ends devices.
    turn: Mutex<()>,
    /// From [`release`](Devices::release) on none is made.
    released: Cell<bool>,
    /// When there was no driver.
    driver_missed: Cell<Option<Instant>>,
    poke: Rc<Notify>,
}

struct Volume {
    /// What says that a device is ours, whoever made it.
    backend: String,
    /// Name in the configuration.
    link: PathBuf,
    made: RefCell<Option<Made>>,
    /// What went wrong last, to say it once.
    trouble: RefCell<Option<String>>,
}

/// A device that exists.
struct Made {
    index: u32,
    params: DeviceParams,
    session: Session,
    /// Largest request that it may make.
    max_block_bytes: u32,
    /// Its requests are limited, and its name in the configuration leads to it.
    is_set_up: bool,
}

/// A socket that the device was given.
#[derive(Clone)]
struct Session {
    begun: Instant,
    /// When it was dead.
    ended: Rc<Cell<Option<Instant>>>,
}

impl Session {
    fn is_alive(&self) -> bool {
        self.ended.get().is_none()
    }

    /// The kernel has hardly taken it, perhaps not at all, and it is not yet time for another one.
    fn wants_a_pause(&self) -> bool {
        let short = |ended: Instant| ended.duration_since(self.begun) < SHORT_SESSION;
        self.ended.get().is_some_and(|ended| short(ended) && ended.elapsed() < RETRY)
    }
}

impl Devices {
    /// None exist yet. `run_dir` tells the devices of several daemons apart.
    pub fn new(config: &ResourceConfig, run_dir: &Path, dead_conn_timeout: Option<Duration>) -> Devices {
        let volume = |v: &model::config::settings::VolumeConfig| Volume {
            backend: format!("lockstep {} {}/{}", run_dir.display(), config.name, v.volume),
            link: PathBuf::from(&v.device),
            made: RefCell::default(),
            trouble: RefCell::default(),
        };
        Devices {
            dead_conn_timeout,
            volumes: config.volumes.iter().map(volume).collect(),
            turn: Mutex::default(),
            released: Cell::new(false),
            driver_missed: Cell::default(),
            poke: Rc::default(),
        }
    }

    /// Makes, changes and ends devices so that they are what the state of the resource asks for. False: something has
    /// failed, which is logged, and may be tried again.
    pub async fn update(&self, running: &Running, handle: &WorkerHandle) -> bool {
        let Some(timeout) = self.dead_conn_timeout else { return true };
        let _turn = self.turn.lock().await;
        if self.released.get() {
            return true;
        }
        let mut all_done = true;
        for (index, volume) in self.volumes.iter().enumerate() {
            let snapshot = running.snapshot();
            let Some(now) = snapshot.volumes.get(index) else { continue };
            let wanted = snapshot.role == Role::Primary && now.size_sectors > 0;
            let done = if wanted {
                self.serve(volume, index, now.size_sectors * 512, handle, timeout).await
            } else {
                let made = volume.made.borrow().as_ref().map(|made| made.index);
                match made {
                    Some(number) => self.end(volume, number).await,
                    None => Ok(()),
                }
            };
            let trouble = done.err().map(|e| e.to_string());
            if let Some(text) = &trouble
                && volume.trouble.borrow().as_ref() != Some(text)
            {
                warn!(device = %volume.link.display(), "no block device: {text}");
            }
            all_done &= trouble.is_none();
            volume.trouble.replace(trouble);
        }
        all_done
    }

    /// Ends every device, also one that an earlier daemon has left, unless somebody uses one: then, except by force, nothing is
    /// done, and the data plane goes on having them open. Until [`resume`](Self::resume) none is made.
    pub async fn release(&self, force: bool) {
        if self.dead_conn_timeout.is_none() {
            return;
        }
        self.released.set(true);
        let _turn = self.turn.lock().await;
        let backends: Vec<String> = self.volumes.iter().map(|v| v.backend.clone()).collect();
        let looked = blocking(move || {
            let found: Vec<Option<u32>> = backends.iter().map(|b| kernel::find(b)).collect();
            // A filesystem on it must not meet the device again when this node is Primary next time.
            let used = !force && found.iter().flatten().any(|index| is_used(*index));
            Ok(if used { Vec::new() } else { found })
        });
        for (volume, index) in self.volumes.iter().zip(looked.await.unwrap_or_default()) {
            let Some(index) = index else { continue };
            let session = volume.made.borrow().as_ref().map(|made| made.session.clone());
            if let Err(e) = self.end(volume, index).await {
                warn!(device = %volume.link.display(), "cannot end the block device: {e}");
            }
            // The kernel's goodbye has to reach the data plane before it is asked to step down.
            let until = Instant::now() + GOODBYE_MAX;
            while session.as_ref().is_some_and(Session::is_alive) && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Devices may be made again.
    pub fn resume(&self) {
        self.released.set(false);
    }

    /// The driver may have been loaded since it was missed.
    pub fn look_again(&self) {
        self.driver_missed.set(None);
    }

    async fn serve(
        &self,
        volume: &Volume,
        index: usize,
        size_bytes: u64,
        handle: &WorkerHandle,
        timeout: Duration,
    ) -> io::Result<()> {
        let present =
            volume.made.borrow().as_ref().map(|made| (made.session.clone(), made.params.size_bytes));
        match present {
            Some((session, bytes)) if session.is_alive() => {
                if bytes != size_bytes {
                    self.resize(volume, size_bytes).await?;
                }
            }
            Some((session, _)) if session.wants_a_pause() => {
                return Err(io::Error::other("the kernel has dropped its connection at once"));
            }
            _ => self.connect(volume, index, handle, timeout).await?,
        }
        set_up(volume).await
    }

    /// Gives the device a socket; makes it, if there is none. From then on it is known, whatever else fails: the kernel takes
    /// no second socket while the first one lives.
    async fn connect(
        &self,
        volume: &Volume,
        index: usize,
        handle: &WorkerHandle,
        timeout: Duration,
    ) -> io::Result<()> {
        if self.driver_missed.get().is_some_and(|at| at.elapsed() < DRIVER_AGAIN) {
            return Ok(());
        }
        let Some(mut driver) = blocking(driver).await? else {
            self.driver_missed.set(Some(Instant::now()));
            return Ok(());
        };
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        let served = handle.serve_device(vol_idx(index), ours).await.map_err(io::Error::other)?;
        let served = served.map_err(io::Error::other)?;
        let params = params(&served.export, timeout, &volume.backend);
        let asked = params.clone();
        let number = blocking(move || match kernel::find(&asked.backend) {
            Some(number) => driver.reconnect(number, theirs.as_fd(), &asked).map(|()| number),
            None => driver.connect(theirs.as_fd(), &asked),
        });
        let number = number.await?;
        let session = Session { begun: Instant::now(), ended: Rc::default() };
        let (session_ended, poke, ended) = (session.ended.clone(), self.poke.clone(), served.ended);
        tokio::task::spawn_local(async move {
            // The sender is only dropped.
            let _ = ended.await;
            session_ended.set(Some(Instant::now()));
            poke.notify_one();
        });
        let max_block_bytes = served.export.max_block_bytes;
        volume.made.replace(Some(Made { index: number, params, session, max_block_bytes, is_set_up: false }));
        Ok(())
    }

    async fn resize(&self, volume: &Volume, size_bytes: u64) -> io::Result<()> {
        let made = volume.made.borrow().as_ref().map(|m| (m.index, m.params.clone()));
        let Some((number, params)) = made else { return Ok(()) };
        let new = DeviceParams { size_bytes, ..params };
        let asked = new.clone();
        blocking(move || driver()?.map_or(Ok(()), |mut d| d.resize(number, &asked))).await?;
        info!(device = %volume.link.display(), size_bytes, "block device resized");
        if let Some(made) = volume.made.borrow_mut().as_mut() {
            made.params = new;
        }
        Ok(())
    }

    async fn end(&self, volume: &Volume, number: u32) -> io::Result<()> {
        volume.made.take();
        let link = volume.link.clone();
        blocking(move || {
            if let Some(mut driver) = driver()? {
                driver.disconnect(number)?;
            }
            remove_link(&link)
        })
        .await?;
        info!(device = %volume.link.display(), "block device ended");
        Ok(())
    }
}

/// What a device needs beside its socket. As long as it fails, the device is there under the kernel's name only.
async fn set_up(volume: &Volume) -> io::Result<()> {
    let missing = |made: &Made| (!made.is_set_up).then_some((made.index, made.max_block_bytes));
    let Some((number, max_block_bytes)) = volume.made.borrow().as_ref().and_then(missing) else {
        return Ok(());
    };
    let link = volume.link.clone();
    blocking(move || {
        kernel::limit_requests(number, max_block_bytes)?;
        make_link(&link, &kernel::node(number))
    })
    .await?;
    info!(device = %volume.link.display(), node = %kernel::node(number).display(), "block device");
    if let Some(made) = volume.made.borrow_mut().as_mut() {
        made.is_set_up = true;
    }
    Ok(())
}

/// Keeps the devices of a resource what they have to be, for as long as it is up.
pub async fn keep(running: Weak<Running>) {
    let Some((mut changes, poke)) = running.upgrade().map(|r| (r.changes(), r.devices().poke.clone())) else {
        return;
    };
    loop {
        let Some(present) = running.upgrade() else { return };
        let done = present.update_devices().await;
        drop(present);
        let again = async {
            if done {
                std::future::pending().await
            } else {
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = poke.notified() => {}
            () = again => {}
        }
    }
}

fn params(export: &ExportInfo, dead_conn_timeout: Duration, backend: &str) -> DeviceParams {
    DeviceParams {
        size_bytes: export.size_bytes,
        block_bytes: BLOCK_BYTES,
        flags: export.flags,
        dead_conn_timeout,
        backend: backend.to_owned(),
    }
}

/// The driver of the kernel; none without it, or without the right to use it.
fn driver() -> io::Result<Option<Driver>> {
    match Driver::open() {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(None),
        other => other,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Makes `link` lead to `node`. What is there and is no link stays: the device of the kernel's DRBD, for one.
fn make_link(link: &Path, node: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(found) if !found.is_symlink() => {
            return Err(io::Error::other(format!(
                "{} is not ours (is the kernel's DRBD loaded?); {} is the device",
                link.display(),
                node.display()
            )));
        }
        _ => {}
    }
    let mut new = link.as_os_str().to_owned();
    new.push(".new");
    let _ = fs::remove_file(&new);
    symlink(node, &new)?;
    fs::rename(&new, link)
}

fn remove_link(link: &Path) -> io::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(found) if found.is_symlink() => fs::remove_file(link),
        _ => Ok(()),
    }
}

/// Somebody has a device open: holds it exclusively (a filesystem, swap, device mapper), as a file, or as a loop device.
fn is_used(index: u32) -> bool {
    let node = kernel::node(index);
    let flags = OFlag::O_EXCL | OFlag::O_NONBLOCK;
    let exclusively = File::options().read(true).custom_flags(flags.bits()).open(&node);
    if exclusively.is_err_and(|e| e.kind() == ErrorKind::ResourceBusy) {
        return true;
    }
    let Ok(number) = fs::metadata(&node).map(|m| m.rdev()) else { return false };
    let stays_open = || {
        (0..LOOKS).all(|look| {
            std::thread::sleep(LOOK_PAUSE * look.min(1));
            is_open_somewhere(number)
        })
    };
    stays_open() || backs_a_loop_device(&node)
}

fn is_open_somewhere(number: u64) -> bool {
    let own = std::process::id().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let others = processes.flatten().filter(|p| {
        let name = p.file_name();
        name.to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()) && n != own)
    });
    let holds = |fd: fs::DirEntry| {
        // Only devices are looked at: what a name on a network leads to may not answer.
        let path = fd.path();
        fs::read_link(&path).is_ok_and(|to| to.starts_with("/dev"))
            && fs::metadata(&path).is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == number)
    };
    others.flat_map(|p| fs::read_dir(p.path().join("fd")).into_iter().flatten().flatten()).any(holds)
}

fn backs_a_loop_device(node: &Path) -> bool {
    let Ok(devices) = fs::read_dir("/sys/block") else { return false };
    let backing = |d: fs::DirEntry| fs::read_to_string(d.path().join("loop/backing_file")).ok();
    devices.flatten().filter_map(backing).any(|file| Path::new(file.trim_end()) == node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_moved_and_removed_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("drbd0");
        make_link(&link, Path::new("/dev/nbd3")).unwrap();
        make_link(&link, Path::new("/dev/nbd4")).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/dev/nbd4"));
        remove_link(&link).unwrap();
        remove_link(&link).unwrap();
        assert!(fs::symlink_metadata(&link).is_err());
        fs::write(&link, "the kernel's").unwrap();
        let refused = make_link(&link, Path::new("/dev/nbd4")).unwrap_err().to_string();
        assert!(refused.contains("is not ours") && refused.contains("/dev/nbd4"), "{refused}");
        remove_link(&link).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "the kernel's");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn users_are_seen_by_number() {
        // Nobody has this one.
        assert!(!is_open_somewhere(u64::MAX));
        assert!(!backs_a_loop_device(Path::new("/dev/there-is-no-such")));
    }
}
