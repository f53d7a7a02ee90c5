//! What each container has of its own: it is left out of a template, and each container makes it when it first
//! starts, by systemd and by System V init alike.
//!
//! Never here: reading or writing an archive.

/// A server that is known by keys.
pub(super) struct Server {
    /// What its keys begin with.
    keys: &'static [u8],
    /// Its unit, below the directories where systemd's units are.
    unit: &'static str,
    /// Its script of System V init.
    pub(super) script: &'static [u8],
    /// The settings that this script reads, as a shell, and the unit, as an environment.
    pub(super) settings: &'static [u8],
    /// The line there that makes the keys. To systemd it is a variable that nobody reads.
    pub(super) line: &'static [u8],
    /// The addition to the unit.
    pub(super) drop_in: &'static [u8],
    /// What that says.
    pub(super) text: &'static [u8],
}

/// Those of Debian and what comes from it, which make keys when they are installed. Others make them when
/// they start.
pub(super) const SERVERS: [Server; 2] = [
    Server {
        keys: b"etc/ssh/ssh_host_",
        unit: "ssh.service",
        script: b"etc/init.d/ssh",
        settings: b"etc/default/ssh",
        line: b"VES_HOST_KEYS=$(ssh-keygen -A 2>&1) || :\n",
        drop_in: b"etc/systemd/system/ssh.service.d/10-ves-host-keys.conf",
        text: b"# Keys are not part of a template: each container makes its own.\n\
                [Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n\
                ExecStartPre=/usr/sbin/sshd -t\n",
    },
    Server {
        keys: b"etc/dropbear/dropbear_",
        unit: "dropbear.service",
        script: b"etc/init.d/dropbear",
        settings: b"etc/default/dropbear",
        line: b"VES_HOST_KEYS=$(for t in rsa ecdsa ed25519; do \
                f=/etc/dropbear/dropbear_${t}_host_key; \
                [ -e $f ] || dropbearkey -t $t -f $f; done 2>&1) || :\n",
        drop_in: b"etc/systemd/system/dropbear.service.d/10-ves-host-keys.conf",
        text: b"# Keys are not part of a template: each container makes its own.\n\
                [Service]\nExecStartPre=/bin/sh -c 'for t in rsa ecdsa ed25519; do \
                f=/etc/dropbear/dropbear_$${t}_host_key; \
                [ -e $$f ] || dropbearkey -t $$t -f $$f; done'\n",
    },
];

impl Server {
    /// Where its unit may be.
    pub(super) fn units(&self) -> [Vec<u8>; 2] {
        ["usr/lib", "lib"].map(|dir| format!("{dir}/systemd/system/{}", self.unit).into_bytes())
    }
}

/// Whether a file makes a system itself and no other.
pub(super) fn is_own(path: &[u8]) -> bool {
    const OTHERS: [&[u8]; 3] =
        [b"etc/hostname", b"var/lib/dbus/machine-id", b"var/lib/systemd/random-seed"];
    SERVERS.iter().any(|server| path.starts_with(server.keys)) || OTHERS.contains(&path)
}

/// The server whose settings are at `path`.
pub(super) fn settings(path: &[u8]) -> Option<&'static Server> {
    SERVERS.iter().find(|server| server.settings == path)
}
