//! What units promise: their scores, what they deny, and what packages bring and take away.

use ves_kit::lab::story;
use ves_lab::PATIENCE;

#[test]
fn sandboxes_are_tight_and_deny_what_they_say() {
    story::on(1, |lab| {
        let node = lab.node(1);
        let out = node.exec_with("bash -s", include_bytes!("units.sh"), PATIENCE * 2)?;
        println!("{}{}", out.stdout, out.stderr);
        assert_eq!(out.status, 0, "{}{}", out.stdout, out.stderr);
        Ok(())
    });
}

#[test]
fn packages_leave_customers_volumes_and_nothing_else() {
    story::on(1, |lab| {
        let node = lab.node(1);
        let purge = "dpkg --purge ves-coordinatord ves-lifecycled ves-networkd ves-resourced \
                     ves-storaged ves-common";
        node.sh("virtctl create 101 --ostemplate trixie && virtctl start 101 --wait")?;
        node.sh("virtctl exec 101 touch /kept && virtctl stop 101")?;
        node.sh(purge)?;
        node.sh("dpkg -i /srv/payload/*.deb")?;
        node.until("virtctl start 101 --wait && virtctl exec 101 ls /kept", PATIENCE)?;
        node.sh("virtctl stop 101 && virtctl destroy 101 && virtctl template delete trixie")?;
        node.sh(purge)?;
        let left =
            "ls -d /run/ves /var/lib/ves /etc/ves /usr/lib/ves /usr/lib/systemd/system/ves-*";
        assert_eq!(node.exec(left, PATIENCE)?.stdout, "");
        assert_eq!(node.sh("systemctl list-units --all --no-legend 'ves-*'; losetup -n -l")?, "");
        Ok(())
    });
}
