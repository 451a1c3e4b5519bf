//! Disks of a test's own: small ones, and one that takes `a` and `A` for one name.
//!
//! Without the right to mount anything a test says that it is skipped, and why.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A mounted disk; it is gone with its value.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// A disk in memory, of so many bytes. `None`, loudly, where nothing can be mounted.
    pub fn small(bytes: u64) -> Option<Self> {
        Self::in_memory(&format!("size={bytes}"))
    }

    fn in_memory(options: &str) -> Option<Self> {
        Self::mounted(|folder| run("mount", &["-t", "tmpfs", "-o", options, "none", &at(folder.path(), "disk")]))
    }

    /// An image of so many MiB in a folder.
    fn image(folder: &Path, mebibytes: u64) -> Result<String, String> {
        let image = at(folder, "image");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(mebibytes << 20));
        made.map(|()| image).map_err(|error| error.to_string())
    }

    /// A disk of 32 MiB that does not tell capitals from small letters, and sets no room aside. `None`, loudly, where
    /// there is none.
    pub fn blind_to_case() -> Option<Self> {
        Self::mounted(|folder| {
            let image = Self::image(folder.path(), 32)?;
            run("mkntfs", &["-q", "-F", "-f", &image])?;
            run("lowntfs-3g", &["-o", "ignore_case", &image, &at(folder.path(), "disk")])
        })
    }

    /// A disk in memory with room for so many files, folders among them. `None`, loudly, where nothing can be mounted.
    pub fn of_few_files(files: u64) -> Option<Self> {
        Self::in_memory(&format!("nr_inodes={files}"))
    }

    /// A disk of 64 MiB that has no permissions, no links, no sockets, no two names that differ in capitals alone, and
    /// no renaming that replaces nothing. The program behind it can be stopped, and then does not answer. `None`,
    /// loudly, where there is none.
    pub fn plain() -> Option<Self> {
        Self::mounted(|folder| {
            let image = Self::image(folder.path(), 64)?;
            run("mkfs.exfat", &[&image])?;
            let found = Command::new("losetup")
                .args(["--find", "--show", &image])
                .output()
                .map_err(|error| error.to_string())?;
            let device = String::from_utf8_lossy(&found.stdout).trim().to_owned();
            std::fs::write(folder.path().join("device"), &device).unwrap();
            run("mount.exfat-fuse", &[&device, &at(folder.path(), "disk")])
        })
    }

    /// A disk of 40 MiB, a usual one, that waits for a plain one below it: stopped, it takes nothing, and what is in memory can be read.
    /// `None`, loudly, where there is none.
    pub fn waiting() -> Option<(Self, Self)> {
        let below = Self::plain()?;
        let above = Self::mounted(|folder| {
            let image = Self::image(&below.path(), 40)?;
            run("mkfs.ext4", &["-q", "-F", &image])?;
            run("mount", &["-o", "loop", &image, &at(folder.path(), "disk")])
        })?;
        // The first is gone before the second.
        Some((above, below))
    }

    /// The device of a plain disk.
    fn device(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("device")).ok()
    }

    /// Stops the program behind the disk, or lets it go on.
    pub fn signal(&self, name: &str) {
        let command = format!("mount.exfat-fuse\0{}\0", self.device().unwrap());
        let listed = std::fs::read_dir("/proc").unwrap().flatten();
        let behind = listed.filter(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line.starts_with(command.as_bytes()))
        });
        let pids: Vec<_> = behind.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(pids.len(), 1, "{pids:?}");
        run("kill", &[&format!("-{name}"), &pids[0]]).unwrap();
    }

    fn mounted(mount: impl FnOnce(&TempDir) -> Result<(), String>) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("disk")).unwrap();
        match mount(&folder) {
            Ok(()) => Some(Self { folder }),
            Err(reason) => {
                println!("SKIPPED: no disk of its own can be mounted on this machine: {reason}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("disk")
    }

    /// Changes the size of a small disk.
    pub fn resize(&self, bytes: u64) {
        let options = format!("remount,size={bytes}");
        run("mount", &["-o", &options, &at(self.folder.path(), "disk")]).unwrap();
    }

    /// Names of what is on it, hidden files included.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

/// A folder that is mounted at another path as well; no more with its value.
pub struct Bind(std::path::PathBuf);

impl Bind {
    /// Mounts it. `None`, loudly, where nothing can be mounted.
    pub fn mount(source: &Path, target: &Path) -> Option<Self> {
        match run("mount", &["--bind", source.to_str().unwrap(), target.to_str().unwrap()]) {
            Ok(()) => Some(Self(target.to_owned())),
            Err(reason) => {
                println!("SKIPPED: no folder can be mounted on this machine: {reason}");
                None
            }
        }
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        if let Err(reason) = run("umount", &["--lazy", self.0.to_str().unwrap()]) {
            println!("a folder could not be unmounted: {reason}");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let device = self.device();
        if device.is_some() {
            // One that was stopped would stay for ever.
            self.signal("CONT");
        }
        if let Err(reason) = run("umount", &["--lazy", &at(self.folder.path(), "disk")]) {
            println!("a disk could not be unmounted: {reason}");
        }
        if let Some(device) = device
            && let Err(reason) = run("losetup", &["--detach", &device])
        {
            println!("a device could not be given back: {reason}");
        }
    }
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    // Where such programs are is not on every user's path.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
