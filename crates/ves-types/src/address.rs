//! Addresses a container can be given, and what is derived from a container id on the link layer.
//!
//! venet is a point-to-point link with both neighbours known beforehand, so hardware addresses are
//! a pure function of the id. Nothing here decides who owns an address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{CtId, ParseError};

/// The next hop of every container's IPv4 default route; link-local, never on any other link.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The next hop of every container's IPv6 default route.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The number in `rtm_protocol` of every route that is ours; a routing daemon redistributes it.
/// 86 is `V`; no protocol of iproute2's `rt_protos` has it.
pub const ROUTE_PROTOCOL: u8 = 86;
/// The name of [`ROUTE_PROTOCOL`] in `rt_protos`.
pub const ROUTE_PROTOCOL_NAME: &str = "ves";

/// A unicast address that can be routed to a container as a /32 or /128.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "IpAddr", into = "IpAddr")]
pub struct CtAddress(IpAddr);

impl CtAddress {
    /// The address.
    pub const fn ip(self) -> IpAddr {
        self.0
    }
    /// 32 or 128.
    pub const fn prefix_len(self) -> u8 {
        match self.0 {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        }
    }
}

impl TryFrom<IpAddr> for CtAddress {
    type Error = ParseError;
    fn try_from(ip: IpAddr) -> Result<Self, ParseError> {
        let bad = |why| Err(ParseError::new("address", ip, why));
        if ip.is_unspecified() {
            return bad("the unspecified address cannot be routed to a container");
        }
        if ip.is_loopback() {
            return bad("a loopback address cannot be routed to a container");
        }
        if ip.is_multicast() {
            return bad("a multicast address cannot be routed to a container");
        }
        match ip {
            IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240 => {
                bad("it is not a unicast address")
            }
            IpAddr::V4(v4) if v4.is_link_local() => {
                bad("link-local addresses are taken by the link itself")
            }
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                bad("link-local addresses are taken by the link itself")
            }
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                bad("write an IPv4 address as such, not mapped into IPv6")
            }
            _ => Ok(Self(ip)),
        }
    }
}

impl From<CtAddress> for IpAddr {
    fn from(a: CtAddress) -> IpAddr {
        a.0
    }
}

impl FromStr for CtAddress {
    type Err = ParseError;
    /// An address, with an optional `/32` or `/128` as vzctl accepted it.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = |why| ParseError::new("address", s, why);
        let (text, len) = match s.split_once('/') {
            Some((text, len)) => (text, Some(len)),
            None => (s, None),
        };
        let ip: IpAddr = text.parse().map_err(|_| {
            bad("it must be an IPv4 or IPv6 address, such as 192.0.2.10 or 2001:db8::10")
        })?;
        let address = Self::try_from(ip)?;
        match len {
            Some(len) if len.parse() != Ok(address.prefix_len()) => {
                Err(bad("a container is given single addresses: /32 or /128, or no length at all"))
            }
            _ => Ok(address),
        }
    }
}

impl fmt::Display for CtAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

/// A hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The node's end of a container's venet link: locally administered, `02:56:` and the id.
    pub const fn of_host_end(ct: CtId) -> Self {
        let [a, b, c, d] = ct.get().to_be_bytes();
        Self([0x02, 0x56, a, b, c, d])
    }
    /// The container's end of its venet link: `06:56:` and the id.
    pub const fn of_ct_end(ct: CtId) -> Self {
        let [a, b, c, d] = ct.get().to_be_bytes();
        Self([0x06, 0x56, a, b, c, d])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["192.0.2.1", "10.0.0.1/32", "2001:db8::1", "2001:db8::1/128", "fd00::1"] {
            good.parse::<CtAddress>().expect(good);
        }
        for bad in [
            "",
            "x",
            "1.2.3",
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "255.255.255.255",
            "224.0.0.5",
            "240.0.0.1",
            "169.254.0.1",
            "10.0.0.1/24",
            "10.0.0.1/",
            "::",
            "::1",
            "fe80::1",
            "ff02::5",
            "::ffff:1.2.3.4",
            "2001:db8::1/64",
            "fe80::1%eth0",
            "1.2.3.4\n",
        ] {
            assert!(bad.parse::<CtAddress>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hardware_addresses_are_unicast_local_and_distinct() {
        let ct = CtId::try_from(101).expect("valid");
        let (host, inner) = (MacAddress::of_host_end(ct), MacAddress::of_ct_end(ct));
        assert_ne!(host, inner);
        for mac in [host, inner] {
            assert_eq!(mac.0[0] & 0b11, 0b10);
        }
        assert_eq!(host.to_string(), "02:56:00:00:00:65");
    }
}
