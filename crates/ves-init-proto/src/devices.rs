//! Which devices of the node are given to a container that asks for them. Pure.
//!
//! Those that are made for being shared, each opener having something of its own, and those that whoever
//! runs the node allows besides. What hands over the node has no [`DeviceName`]. Never here: where a device
//! is, and its number.

use ves_types::{DeviceName, DevicePattern};

/// Those that need nobody's word: tun and ppp make interfaces in the container's own network, what FUSE
/// serves is mounted inside only, virtual machines and shaders count as their processes.
pub const USUAL: [&str; 7] = ["net/tun", "ppp", "fuse", "kvm", "vhost-net", "dri/*", "nvidia*"];

/// Whether a device is given, where the node's own list is `allow`.
pub fn given(name: &DeviceName, allow: &[DevicePattern]) -> bool {
    let usual = USUAL.iter().filter_map(|pattern| pattern.parse::<DevicePattern>().ok());
    usual.chain(allow.iter().cloned()).any(|pattern| pattern.covers(name))
}

/// Why it is not, and what would be done about that.
pub fn refusal(name: &DeviceName) -> String {
    format!(
        "/dev/{name} is none that this node gives to containers; who runs the node can allow it by \
         allow_devices = [\"{name}\"] under [service] of lifecycle.toml"
    )
}

/// What the node lacks where it has no such device, and what brings it.
pub fn missing(device: &str) -> String {
    let module = match device {
        "net/tun" | "c:10:200" => "tun",
        "fuse" | "c:10:229" => "fuse",
        "ppp" | "c:108:0" => "ppp_generic",
        "kvm" | "c:10:232" => "kvm_intel or kvm_amd",
        "vhost-net" | "c:10:238" => "vhost_net",
        _ => "the module of its driver",
    };
    format!(
        "the node has no such device now; load {module} there (modprobe, and /etc/modules-load.d for each \
         boot), or take the device away from the container"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_given_others_only_where_the_node_says_so() {
        let name = |s: &str| s.parse::<DeviceName>().expect("a name");
        for pattern in USUAL {
            pattern.parse::<DevicePattern>().expect("a pattern");
            assert!(given(&name(&pattern.replace('*', "0")), &[]), "{pattern}");
        }
        for other in ["ttyS0", "snd/timer", "net/other", "fuse0", "hwrng"] {
            assert!(!given(&name(other), &[]), "{other}");
            assert!(refusal(&name(other)).contains(&format!("allow_devices = [\"{other}\"]")));
        }
        let allow = ["ttyUSB*", "hwrng"].map(|p| p.parse().expect("a pattern"));
        assert!(given(&name("ttyUSB3"), &allow) && given(&name("hwrng"), &allow));
        assert!(!given(&name("ttyS0"), &allow));
        assert!(missing("net/tun").contains("load tun there"));
    }
}
