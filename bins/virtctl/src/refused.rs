//! vzctl's parameters that are not taken: whether never or not yet, why, and what to do instead.
//!
//! Pure. Never here: the grammar of them, which is in `unbuilt`.

use ves_proto::{Fault, Reason};

use crate::unbuilt::not_built;

/// What becomes of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is never taken.
    Never {
        /// What of Ves or of the kernel it does not fit.
        why: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// It is part of the contract and not built.
    NotYet {
        /// What to do until then.
        instead: &'static str,
    },
    /// One value of it is what every container has, and is taken; others are not.
    Always {
        /// That value.
        value: &'static str,
        /// Why there is no other.
        why: &'static str,
        /// What to do.
        instead: &'static str,
    },
}

const fn never(why: &'static str, instead: &'static str) -> Verdict {
    Verdict::Never { why, instead }
}

/// What is said of Ethernet interfaces.
const NETIF: Verdict = Verdict::NotYet {
    instead: "a container has one routed interface: give it addresses by --ipadd, which are its own and \
              cannot be borrowed by others",
};
/// What is said of where a container's files are.
const STORAGE: &str = "storage alone decides where and how volumes are kept and mounted, and no \
                       program of the node goes by a path into one";

fn verdict(option: &str) -> Option<Verdict> {
    Some(match option {
        "--memguarantee" => Verdict::NotYet {
            instead: "while the sum of all --ram is less than what `virtctl node capacity` says the node \
                      has for containers, each of them gets all of its own",
        },
        "--vm_overcommit" => never(
            "it scaled privvmpages, and no kernel controller limits address space",
            "--ram and --swap limit the memory that is really used",
        ),
        "--meminfo" => never(
            "there is no choice of what a container is shown as its memory",
            "--ram is what it has",
        ),
        "--cpuguarantee" => never(
            "the kernel guarantees no processor time, it shares out what is wanted",
            "--cpuunits is the container's share against the others', and --cpulimit keeps those from \
             more",
        ),
        "--diskquota" => Verdict::Always {
            value: "yes",
            why: "every volume is a file system of its own with a hard size",
            instead: "--diskspace 16T is the greatest there is",
        },
        "--jquota" => never(
            "a volume is a file system of its own, with a journal that keeps its size and count right",
            "leave it out",
        ),
        "--quotatime" => Verdict::NotYet {
            instead: "of --diskspace S:H the hard limit H counts, at once and without a grace period",
        },
        "--quotaugidlimit" => Verdict::NotYet {
            instead: "--diskspace and --diskinodes limit all users of the container together",
        },
        "--netif_add" | "--netif_del" | "--ifname" | "--mac" | "--host_ifname" | "--host_mac"
        | "--bridge" | "--vlan" | "--mac_filter" => NETIF,
        "--netdev_add" | "--netdev_del" => never(
            "an interface of the node that is moved inside leaves the node with the container's root, \
             who is no administrator of it",
            "give the container addresses by --ipadd and route to them",
        ),
        "--ext_ipadd" | "--ext_ipdel" => Verdict::NotYet {
            instead: "an address belongs to one container: --ipdel takes it from the one, --ipadd gives \
                      it to the other, both while they run",
        },
        "--rate" | "--ratebound" => Verdict::NotYet {
            instead: "shape the container's traffic inside it by tc, or on the node's own interface",
        },
        "--netfilter" => Verdict::Always {
            value: "full",
            why: "a container has a network namespace, and with it packet filters, connection tracking \
                  and NAT of its own; a part of them cannot be taken away",
            instead: "filter on the node, where the container's root cannot change it",
        },
        "--iptables" => never(
            "a container has all packet filters of a network namespace of its own, and loads no modules",
            "load on the node, by /etc/modules-load.d, the modules its rules need",
        ),
        "--bindmount_add" | "--bindmount_del" => Verdict::NotYet {
            instead: "copy files in by virtctl exec CT \"tar -x\", or mount a network file system \
                      that needs no kernel module inside, such as sshfs",
        },
        "--pci_add" | "--pci_del" => never(
            "a PCI device has no namespace: who drives it can reach all memory of the node",
            "pass it to a virtual machine",
        ),
        "--mount_opts" => {
            never(STORAGE, "leave it out: volumes are mounted nodev and with their owners mapped")
        }
        "--root" | "--private" => never(
            STORAGE,
            "read and write a container's files by virtctl exec; the pool's place is in storage.toml",
        ),
        "--layout" => never(STORAGE, "which kind of pool a node has is set in storage.toml"),
        _ => return None,
    })
}

/// What is to be said of an option that is no parameter of Ves: a note where its values are those that every
/// container has.
///
/// # Errors
/// `NOT_OFFERED` or `NOT_BUILT`, with the facts `what`, `why`, `instead`.
pub(crate) fn judge(option: &'static str, values: &[String]) -> Result<String, Fault> {
    let never = |why: &str, instead: &str| {
        let message = format!("{option} is not taken: {why}; {instead}");
        let fault = Fault::new(Reason::NotOffered, message).fact("what", option);
        Err(fault.fact("why", why).fact("instead", instead))
    };
    match verdict(option) {
        Some(Verdict::Never { why, instead }) => never(why, instead),
        Some(Verdict::Always { value, .. }) if values.iter().all(|v| v == value) => {
            Ok(format!("{option} {value} is so of every container"))
        }
        Some(Verdict::Always { why, instead, .. }) => never(why, instead),
        Some(Verdict::NotYet { instead }) => {
            let message = format!(
                "{option} is not built yet in this version of virtctl; nothing was changed: {instead}"
            );
            let fault = Fault::new(Reason::NotBuilt, message).fact("what", option);
            Err(fault.fact("instead", instead))
        }
        None => Err(not_built(option)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unbuilt::OPTIONS;

    fn said(option: &'static str, value: &str) -> Result<String, Fault> {
        judge(option, &[value.to_owned()])
    }

    #[test]
    fn every_option_has_an_answer_of_its_own() {
        let open = ["--features", "--capability", "--devices", "--devnodes"];
        let mut answers = std::collections::BTreeMap::<String, Vec<&str>>::new();
        for option in OPTIONS.iter().filter(|option| !open.contains(option)) {
            let fault = said(option, "x").expect_err("it is not taken");
            assert!(fault.message.starts_with(option), "{}", fault.message);
            assert_eq!(fault.facts["what"], *option);
            assert!(!fault.facts["instead"].is_empty(), "{option}");
            let never = fault.reason == Reason::NotOffered;
            assert!(never || fault.reason == Reason::NotBuilt, "{option}");
            assert_eq!(fault.facts.contains_key("why"), never, "{option}");
            answers.entry(fault.message.replace(option, "")).or_default().push(option);
        }
        // Only what belongs together is answered alike.
        let stem =
            |option: &str| option.trim_end_matches("_add").trim_end_matches("_del").to_owned();
        for options in answers.values().filter(|options| options.len() > 2) {
            assert!(options.contains(&"--netif_add"), "{options:?}");
        }
        for options in answers.values().filter(|options| options.len() == 2) {
            let pair = [["--rate", "--ratebound"], ["--root", "--private"]];
            let alike = stem(options[0]).trim_end_matches("add")
                == stem(options[1]).trim_end_matches("del");
            assert!(alike || pair.iter().any(|p| p == &options[..]), "{options:?}");
        }
    }

    #[test]
    fn what_every_container_has_is_taken() {
        assert_eq!(
            said("--diskquota", "yes").as_deref(),
            Ok("--diskquota yes is so of every container")
        );
        assert!(said("--netfilter", "full").is_ok());
        for (option, value) in [("--diskquota", "no"), ("--netfilter", "stateless")] {
            let fault = said(option, value).expect_err("there is no other");
            assert_eq!(fault.reason, Reason::NotOffered, "{option} {value}");
        }
        let both = ["yes".to_owned(), "no".to_owned()];
        assert!(judge("--diskquota", &both).is_err());
    }
}
