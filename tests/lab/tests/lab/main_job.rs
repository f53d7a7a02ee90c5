//! The main job: from a template to an answering container, on Debian 13 alone.

use ves_kit::lab::story;
use ves_lab::{FOOTPRINT, PATIENCE, serve_web};

#[test]
fn from_a_template_to_an_answering_container() {
    story::on(2, |lab| {
        let (node, other) = (lab.node(1), lab.node(2));
        let before = node.sh(FOOTPRINT)?;
        node.sh("virtctl create 101 --ostemplate trixie --hostname web1 --ipadd 192.0.2.101 \
             --ipadd 2001:db8:56::101 --diskspace 1G --ram 256M --cpulimit 200 --numproc 200")?;
        node.sh("virtctl start 101 --wait")?;
        for place in ["", "virtctl exec 101 "] {
            assert_eq!(node.sh(&format!("{place}cat /proc/1/comm"))?, "systemd");
            assert!(node.sh(&format!("{place}systemctl --version"))?.starts_with("systemd 257"));
        }
        node.sh("vgs ves")?;
        assert!(node.sh("virtctl node capacity")?.contains("cgroup        v2\n"));
        assert_eq!(node.sh("virtctl exec 101 systemctl is-system-running")?, "running");
        serve_web(node, 101)?;
        other.sh("ip route add 192.0.2.101 via 10.86.0.1")?;
        other.sh("ip route add 2001:db8:56::101 via fd86::1")?;
        for url in ["http://192.0.2.101", "http://[2001:db8:56::101]"] {
            let curl = format!("curl -sS --retry 9 --retry-connrefused -m 60 {url}");
            assert_eq!(other.until(&curl, PATIENCE)?, "hello from web1");
        }
        node.sh("virtctl stop 101 && virtctl destroy 101")?;
        node.until(&format!("test \"$({FOOTPRINT})\" = '{before}'"), PATIENCE)?;
        Ok(())
    });
}
