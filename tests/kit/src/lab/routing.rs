//! What a machine is for beside running Ves, or instead: a router in OSPF's area 0 with FRR or BIRD, a
//! member of etcd. Pure: what it is told to do is a shell script. How the routing daemons are told of
//! Ves's own routes is no matter of this module.

/// A routing daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// FRR.
    Frr,
    /// BIRD.
    Bird,
}

/// What a machine of a story is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// Whether it runs our packages.
    pub ves: bool,
    /// Its routing daemon.
    pub routing: Option<Routing>,
    /// Whether it is a member of the etcd cluster of all that are.
    pub etcd: bool,
}

impl Role {
    /// Runs our packages and nothing else.
    pub const NODE: Self = Self { ves: true, routing: None, etcd: false };
    /// A router with FRR.
    pub const FRR: Self = Self { ves: false, routing: Some(Routing::Frr), etcd: false };
    /// A router with BIRD.
    pub const BIRD: Self = Self { ves: false, routing: Some(Routing::Bird), etcd: false };

    /// So many nodes that run our packages and a routing daemon, in turn FRR and BIRD.
    pub fn routers(nodes: usize) -> Vec<Self> {
        let routing = [Routing::Frr, Routing::Bird].into_iter().cycle().take(nodes);
        routing.map(|daemon| Self { routing: Some(daemon), ..Self::NODE }).collect()
    }

    /// The name of the machine with this number.
    pub(super) fn name(self, number: usize) -> String {
        match (self.ves, self.routing) {
            (false, Some(Routing::Frr)) => "frr".to_owned(),
            (false, Some(Routing::Bird)) => "bird".to_owned(),
            _ => format!("node{number}"),
        }
    }
}

/// Makes a machine one without Ves, also after its next boot.
const QUIET: &str = "systemctl list-unit-files --no-legend --state=enabled 've[s]-*' |
    while read -r unit _; do systemctl disable --quiet --now \"$unit\"; done
systemctl stop 've[s]-*'
";

/// The commands that make the machine with this number, of machines with these roles, what its role
/// says; empty where there are none.
pub(super) fn script(number: usize, roles: &[Role]) -> String {
    let role = roles[number - 1];
    let mut text = String::new();
    if !role.ves {
        text += QUIET;
    }
    if let Some(routing) = role.routing {
        text += &match routing {
            Routing::Frr => frr(number),
            Routing::Bird => bird(number),
        };
    }
    if role.etcd {
        text += &etcd(number, roles);
    }
    if text.is_empty() { text } else { format!("set -eu\n{text}") }
}

/// A command that succeeds once the machine with this number is what its role says: a full neighbour
/// of each other router's, or as many as a router on a broadcast segment has; a member of an etcd that
/// answers.
pub(super) fn ready(number: usize, roles: &[Role]) -> Option<String> {
    let role = roles[number - 1];
    let routers = roles.iter().filter(|role| role.routing.is_some()).count();
    let mut checks = Vec::new();
    // Only two of a segment's routers are full neighbours of all.
    if let (Some(routing), Some(others)) = (role.routing, routers.checked_sub(1).map(|n| n.min(2)))
    {
        checks.push(match routing {
            Routing::Frr => format!(
                "test $(vtysh -c 'show ip ospf neighbor' | grep -c Full/) -ge {others} && \
                 test $(vtysh -c 'show ipv6 ospf6 neighbor' | grep -c Full/) -ge {others}"
            ),
            Routing::Bird => format!(
                "test $(birdc show ospf neighbors ospf1 | grep -c Full/) -ge {others} && \
                 test $(birdc show ospf neighbors ospf2 | grep -c Full/) -ge {others}"
            ),
        });
    }
    if role.etcd {
        checks.push(format!("etcdctl --endpoints http://10.86.0.{number}:2379 endpoint health"));
    }
    (!checks.is_empty()).then(|| checks.join(" && "))
}

fn frr(number: usize) -> String {
    format!(
        "sed -i -e s/^ospfd=no/ospfd=yes/ -e s/^ospf6d=no/ospf6d=yes/ /etc/frr/daemons
cat > /etc/frr/frr.conf <<'END'
interface eth0
 ip ospf area 0
 ip ospf hello-interval 1
 ip ospf dead-interval 4
 ipv6 ospf6 area 0
 ipv6 ospf6 hello-interval 1
 ipv6 ospf6 dead-interval 4
router ospf
 ospf router-id 10.86.0.{number}
router ospf6
 ospf6 router-id 10.86.0.{number}
END
systemctl unmask frr 2>/dev/null; systemctl enable --quiet frr; systemctl restart frr
"
    )
}

fn bird(number: usize) -> String {
    format!(
        "cat > /etc/bird/bird.conf <<'END'
router id 10.86.0.{number};
protocol device {{}}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
protocol ospf v2 {{ ipv4 {{ import all; }}; area 0 {{ interface \"eth0\" {{ hello 1; dead 4; }}; }}; }}
protocol ospf v3 {{ ipv6 {{ import all; }}; area 0 {{ interface \"eth0\" {{ hello 1; dead 4; }}; }}; }}
END
systemctl unmask bird 2>/dev/null; systemctl enable --quiet bird; systemctl restart bird
"
    )
}

fn etcd(number: usize, roles: &[Role]) -> String {
    let members = roles.iter().enumerate().filter(|(_, role)| role.etcd);
    let members: Vec<_> =
        members.map(|(i, _)| format!("member{0}=http://10.86.0.{0}:2380", i + 1)).collect();
    let (peer, client) =
        (format!("http://10.86.0.{number}:2380"), format!("http://10.86.0.{number}:2379"));
    format!(
        "cat > /etc/default/etcd <<'END'
ETCD_NAME=member{number}
ETCD_LISTEN_PEER_URLS={peer}
ETCD_INITIAL_ADVERTISE_PEER_URLS={peer}
ETCD_LISTEN_CLIENT_URLS={client}
ETCD_ADVERTISE_CLIENT_URLS={client}
ETCD_INITIAL_CLUSTER={}
ETCD_INITIAL_CLUSTER_STATE=new
ETCD_HEARTBEAT_INTERVAL=50
ETCD_ELECTION_TIMEOUT=500
END
systemctl unmask etcd 2>/dev/null; systemctl enable --quiet etcd; systemctl restart --no-block etcd
",
        members.join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_node_is_told_nothing_and_a_router_waits_for_its_neighbours() {
        assert_eq!(script(1, &[Role::NODE]), "");
        assert_eq!(ready(1, &[Role::NODE, Role::FRR]), None);
        let roles = Role::routers(3);
        assert!(script(1, &roles).contains("ospf router-id 10.86.0.1\n"));
        assert!(script(2, &roles).contains("router id 10.86.0.2;\n"));
        assert!(!script(2, &roles).contains("disable"), "it runs Ves as well");
        assert!(ready(3, &roles).is_some_and(|check| check.contains("-ge 2")));
    }

    #[test]
    fn etcd_knows_all_its_members_and_no_others() {
        let member = Role { etcd: true, ..Role::NODE };
        let text = script(3, &[member, Role::NODE, member]);
        let cluster =
            "ETCD_INITIAL_CLUSTER=member1=http://10.86.0.1:2380,member3=http://10.86.0.3:2380\n";
        assert!(text.contains(cluster), "{text}");
    }
}
