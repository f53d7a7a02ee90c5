//! A template is built on a node of Debian packages, by the unit that is shut in for that.

use ves_cluster::PATIENCE;
use ves_kit::lab::story;

#[test]
fn a_template_is_built_in_the_sandbox_and_boots() {
    story::on(1, &[], |lab| {
        let node = lab.node(1);
        node.sh("sed -i 's,^#mirror = .*,mirror = \"http://127.0.0.1:3142/debian\",' \
                 /etc/ves/storage.toml
             systemctl restart ves-storaged && systemctl start lab-mirror")?;
        let build = "virtctl template build own --suite trixie --init sysvinit";
        let built = node.exec(build, PATIENCE * 2)?;
        assert_eq!(built.status, 0, "{}{}", built.stdout, built.stderr);
        let units = "journalctl --no-pager -o cat -u 'ves-builder@*'";
        assert!(node.sh(units)?.contains("Started"), "it was not built in its unit");
        node.until("! pgrep mmdebstrap && ! ls -d /var/tmp/*ves-builder*", PATIENCE)?;
        node.sh("virtctl create 101 --ostemplate own && virtctl start 101 --wait")?;
        assert_eq!(node.exec_in(101, "cat /proc/1/comm")?.stdout, "init\n");
        node.sh("virtctl stop 101 && virtctl destroy 101 && virtctl template delete own").map(drop)
    });
}
