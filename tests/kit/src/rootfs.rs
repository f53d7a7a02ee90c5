//! A small root file system with busybox, for tests that need something to start.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::guard::run;

/// A directory tree with a static busybox, ids as they are inside (root owns all).
///
/// `/sbin/init` is busybox's, which runs `/etc/rc` once, and has `poweroff`, `halt`
/// and `reboot`; `/bin/httpd` serves `/srv/www`.
#[derive(Debug)]
pub struct Rootfs {
    dir: tempfile::TempDir,
}

const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "grep", "halt",
    "head", "hostname", "httpd", "id", "init", "ip", "kill", "ln", "ls", "mkdir", "mknod", "mount",
    "mv", "nc", "ping", "poweroff", "ps", "pwd", "readlink", "reboot", "rm", "rmdir", "sed", "seq",
    "sh", "sleep", "sort", "stat", "stty", "sync", "tail", "test", "touch", "tr", "true", "tty",
    "umount", "uname", "wc", "wget", "which", "yes",
];

impl Rootfs {
    /// Builds it; needs `busybox-static`, and root so that root owns the files.
    ///
    /// # Panics
    /// When busybox is not there or the directory cannot be written; ask
    /// [`need::program`](crate::need::program) first.
    #[track_caller]
    pub fn busybox() -> Self {
        let dir = tempfile::Builder::new().prefix("ves-rootfs-").tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        for sub in [
            "bin", "dev", "etc", "proc", "root", "run", "sbin", "srv/www", "sys", "tmp", "usr/bin",
            "var/log", "var/tmp",
        ] {
            std::fs::create_dir_all(at(sub)).expect("a directory in it");
        }
        let busybox = ["/bin/busybox", "/usr/bin/busybox"]
            .iter()
            .find(|path| Path::new(path).is_file())
            .expect("busybox-static is installed");
        std::fs::copy(busybox, at("bin/busybox")).expect("busybox is copied");
        for applet in APPLETS {
            symlink("busybox", at("bin").join(applet)).expect("an applet's link");
        }
        for applet in ["init", "halt", "poweroff", "reboot"] {
            symlink("../bin/busybox", at("sbin").join(applet)).expect("an applet's link");
        }
        for (file, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"),
            ("etc/group", "root:x:0:\ntty:x:5:\nuser:x:1000:\n"),
            ("etc/shadow", "root:*:19000:0:99999:7:::\nuser:*:19000:0:99999:7:::\n"),
            ("etc/hostname", "busybox\n"),
            ("etc/inittab", "::sysinit:/bin/sh /etc/rc\n::shutdown:/bin/true\n"),
            ("etc/rc", "exit 0\n"),
            ("etc/os-release", "ID=busybox\nPRETTY_NAME=\"busybox for tests\"\n"),
            ("srv/www/index.html", "ves\n"),
        ] {
            std::fs::write(at(file), text).expect("a file in it");
        }
        let text = dir.path().to_str().expect("test paths are text");
        run("chmod", &["0755", text]);
        run("chmod", &["1777", &format!("{text}/tmp"), &format!("{text}/var/tmp")]);
        Self { dir }
    }
    /// The same with an init that keeps the web server running.
    ///
    /// # Panics
    /// As [`Self::busybox`].
    #[track_caller]
    pub fn web() -> Self {
        let rootfs = Self::busybox();
        let inittab = rootfs.dir().join("etc/inittab");
        let text = std::fs::read_to_string(&inittab).expect("it has one");
        let server = "::respawn:/bin/httpd -f -p 80 -h /srv/www\n";
        std::fs::write(inittab, text + server).expect("writable");
        rootfs
    }
    /// The tree, to add files to.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// Packs the tree into a tar archive at `file`; its name decides the compression.
    ///
    /// # Panics
    /// When `tar` fails.
    #[track_caller]
    pub fn tar(&self, file: &Path) -> PathBuf {
        let (dir, to) = (self.dir().to_str(), file.to_str());
        let (dir, to) = (dir.expect("test paths are text"), to.expect("test paths are text"));
        run("tar", &["--numeric-owner", "--auto-compress", "-C", dir, "-cf", to, "."]);
        file.to_owned()
    }
    /// Writes the tree into a new sparse ext4 image of `bytes` at `file`, without mounting it.
    ///
    /// # Panics
    /// When `mke2fs` fails.
    #[track_caller]
    pub fn ext4(&self, file: &Path, bytes: u64) -> PathBuf {
        let (dir, to) = (self.dir().to_str(), file.to_str());
        let (dir, to) = (dir.expect("test paths are text"), to.expect("test paths are text"));
        let size = format!("{}k", bytes / 1024);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-m", "0", "-d", dir, to, &size]);
        file.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::need;

    #[test]
    fn the_image_holds_busybox_owned_by_root() {
        crate::need!(
            need::root(),
            need::program("busybox", "busybox-static"),
            need::program("mke2fs", "e2fsprogs")
        );
        let rootfs = Rootfs::busybox();
        let dir = tempfile::tempdir().expect("a directory");
        let image = rootfs.ext4(&dir.path().join("image"), 32 << 20);
        let out = run("debugfs", &["-R", "stat /bin/busybox", image.to_str().expect("text")]);
        assert!(out.contains("User:     0"), "{out}");
        let tar = rootfs.tar(&dir.path().join("rootfs.tar.gz"));
        assert!(run("tar", &["-tf", tar.to_str().expect("text")]).contains("./sbin/init"));
        let out = run(rootfs.dir().join("bin/busybox").to_str().expect("text"), &["echo", "ok"]);
        assert_eq!(out, "ok\n");
    }
}
