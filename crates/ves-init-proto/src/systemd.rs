//! What a container's systemd is told at each start, by files below /run. Pure.
//!
//! All have early names: a tenant's own file of the same kind comes later and wins. Other inits read none
//! of them. Never here: what a tenant's units say.

use crate::launch::Spec;
use crate::memory::{OOM_SCORE, Place, Size};
use crate::step::{RunFile, Unless};

/// What units of a container that is migratable are told, each after its own file: it could not be written down
/// with what they have else.
const UNITS: [(&str, &str); 2] = [
    // A /tmp of its own, and not one that hangs nowhere.
    ("systemd-resolved.service", "PrivateTmp=yes\n"),
    // No mounts of its own: it holds files of sessions, which outlive it when it is restarted.
    (
        "systemd-logind.service",
        "PrivateTmp=no\nProtectControlGroups=no\nProtectHome=no\nProtectHostname=no\n\
         ProtectKernelLogs=no\nProtectKernelModules=no\nProtectKernelTunables=no\nProtectSystem=no\n\
         ReadWritePaths=\n",
    ),
];

/// Where the tenant says how large /tmp is.
pub(crate) fn own_tmp() -> Vec<Unless> {
    vec![
        Unless::Mounted("/tmp".to_owned()),
        Unless::There("/etc/systemd/system/tmp.mount".to_owned()),
    ]
}

/// The files, in no order.
pub(crate) fn files(spec: &Spec) -> Vec<RunFile> {
    let file = |path: &str, text: String| RunFile { path: path.to_owned(), text, unless: vec![] };
    let size = |place: Place| place.size(spec.memory());
    let manager = format!("[Manager]\nDefaultOOMScoreAdjust={OOM_SCORE}\n");
    let mut files = vec![file("systemd/system.conf.d/10-ves.conf", manager)];
    // Of what a unit says itself, the kernel refuses all that would spare it.
    let users = if spec.features.nesting { "" } else { "PrivateUsers=no\n" };
    let every = format!("{users}OOMScoreAdjust={OOM_SCORE}\n");
    let dumped = UNITS.into_iter().filter(|_| spec.features.effective().migratable);
    let units = [("service", every.as_str())].into_iter().chain(dumped);
    files.extend(units.map(|(unit, text)| {
        file(&format!("systemd/system/{unit}.d/10-ves.conf"), format!("[Service]\n{text}"))
    }));
    if let Some(Size { bytes, inodes }) = size(Place::Tmp) {
        let options = format!("mode=1777,strictatime,nosuid,nodev,size={bytes},nr_inodes={inodes}");
        let text = format!("[Mount]\nOptions={options}\n");
        files.push(RunFile {
            unless: own_tmp(),
            ..file("systemd/system/tmp.mount.d/10-ves.conf", text)
        });
    }
    if let Some(Size { bytes, inodes }) = size(Place::User) {
        files.push(file(
            "systemd/logind.conf.d/10-ves.conf",
            format!("[Login]\nRuntimeDirectorySize={bytes}\nRuntimeDirectoryInodesMax={inodes}\n"),
        ));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(ram_bytes: Option<u64>) -> Spec {
        Spec {
            slot: 20.try_into().expect("a slot"),
            hostname: None,
            init: ves_types::InitArgv::default(),
            nameservers: vec![],
            search: vec![],
            max_ptys: None,
            shm_bytes: None,
            ram_bytes,
            devices: vec![],
            capabilities_off: std::collections::BTreeSet::new(),
            features: ves_types::Features::default(),
        }
    }

    /// What each file is there for; a line that is lost shows inside only where somebody looks for it.
    #[test]
    fn all_is_said_where_a_later_file_of_the_tenant_wins() {
        let all = files(&spec(Some(256 << 20)));
        let said = |path: &str| {
            let path = format!("systemd/{path}/10-ves.conf");
            let file = all.iter().find(|file| file.path == path);
            let file = file.unwrap_or_else(|| panic!("{path} is not there"));
            file.text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(said("system.conf.d"), ["[Manager]", "DefaultOOMScoreAdjust=200"]);
        let every = ["[Service]", "PrivateUsers=no", "OOMScoreAdjust=200"];
        assert_eq!(said("system/service.d"), every);
        let resolved = said("system/systemd-resolved.service.d");
        assert_eq!(resolved, ["[Service]", "PrivateTmp=yes"]);
        let logind = said("system/systemd-logind.service.d");
        assert_eq!(logind[0], "[Service]");
        // All that makes systemd give a unit mounts of its own, in Debian's file of it.
        for mounts in [
            "PrivateTmp=no",
            "ProtectControlGroups=no",
            "ProtectHome=no",
            "ProtectHostname=no",
            "ProtectKernelLogs=no",
            "ProtectKernelModules=no",
            "ProtectKernelTunables=no",
            "ProtectSystem=no",
            "ReadWritePaths=",
        ] {
            assert!(logind.iter().any(|line| line == mounts), "{mounts}");
        }
        for file in &all {
            assert!(file.path.ends_with("/10-ves.conf") && file.text.ends_with('\n'), "{file:?}");
            assert_eq!(!file.unless.is_empty(), file.path.contains("tmp.mount"), "{file:?}");
        }
        assert_eq!(own_tmp().len(), 2, "a line of fstab, and a unit");
    }

    #[test]
    fn only_what_is_limited_is_said() {
        let sizes = |ram| {
            let texts = files(&spec(ram)).into_iter().map(|file| file.text);
            texts.filter(|text| text.to_lowercase().contains("size=")).collect::<Vec<_>>()
        };
        assert!(sizes(None).is_empty());
        let [tmp, user] = sizes(Some(256 << 20)).try_into().expect("two");
        assert!(tmp.contains(&format!("size={}", 64 << 20)), "{tmp}");
        assert!(user.contains(&format!("RuntimeDirectorySize={}", 16 << 20)), "{user}");
    }

    #[test]
    fn units_have_what_the_features_let_them_have() {
        use ves_types::Feature::{Migratable, Nesting};
        let said = |feature, on| {
            let mut spec = spec(None);
            spec.features = spec.features.with(feature, on);
            files(&spec).into_iter().map(|file| file.path + ": " + &file.text).collect::<String>()
        };
        let (nests, nests_not) = (said(Nesting, true), said(Nesting, false));
        assert!(nests_not.contains("PrivateUsers=no") && nests_not.contains("systemd-logind"));
        assert!(!nests.contains("PrivateUsers") && !nests.contains("systemd-logind"), "{nests}");
        let stays = said(Migratable, false);
        assert!(stays.contains("PrivateUsers=no") && !stays.contains("systemd-logind"), "{stays}");
    }
}
