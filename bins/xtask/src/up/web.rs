//! The small web server that `up` installs in the container, and the question it must answer.
//!
//! It is a service of the container's own init, made of what every Debian template has (the perl
//! of package perl-base), so nothing is fetched. Everything here runs inside.

use std::net::IpAddr;
use std::time::Duration;

use ves_kit::http;

/// What every answer begins with.
pub(crate) const GREETING: &str = "Hello from a Ves container";

/// A shell script that installs the server as a service of systemd or of System V init, has it
/// started with each boot, and starts it. Doing it again is harmless.
pub(crate) const INSTALL: &str = r#"#!/bin/sh
set -eu
mkdir -p /usr/local/sbin
cat > /usr/local/sbin/hello-httpd <<'PERL'
#!/usr/bin/perl
# Answers each request on port 80, IPv4 and IPv6, with a page about this machine.
use strict;
use warnings;
use Socket qw(:all);

socket(my $server, AF_INET6, SOCK_STREAM, 0) or die "socket: $!\n";
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1) or die "SO_REUSEADDR: $!\n";
setsockopt($server, IPPROTO_IPV6, IPV6_V6ONLY, 0) or die "IPV6_V6ONLY: $!\n";
bind($server, pack_sockaddr_in6(80, IN6ADDR_ANY)) or die "bind: $!\n";
listen($server, 256) or die "listen: $!\n";
$SIG{PIPE} = 'IGNORE';
my $served = 0;
while (1) {
    accept(my $client, $server) or next;
    setsockopt($client, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', 2, 0));
    my $request = '';
    while ($request !~ /\r?\n\r?\n/ and length $request < 8192) {
        sysread($client, $request, 4096, length $request) or last;
    }
    $served++;
    open(my $name, '<', '/proc/sys/kernel/hostname') or die "hostname: $!\n";
    chomp(my $hostname = <$name>);
    open(my $comm, '<', '/proc/1/comm') or die "comm: $!\n";
    chomp(my $init = <$comm>);
    my $page = "Hello from a Ves container: $hostname, init $init, answer $served\n";
    syswrite($client, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "
        . length($page) . "\r\nConnection: close\r\n\r\n" . $page);
    shutdown($client, 1);
    close($client);
}
PERL
chmod 755 /usr/local/sbin/hello-httpd
if [ -d /run/systemd/system ]; then
    cat > /etc/systemd/system/hello-httpd.service <<'UNIT'
[Unit]
Description=A small web server

[Service]
ExecStart=/usr/local/sbin/hello-httpd
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl --quiet enable hello-httpd.service
    systemctl restart --no-block hello-httpd.service
else
    cat > /etc/init.d/hello-httpd <<'INIT'
#!/bin/sh
### BEGIN INIT INFO
# Provides:          hello-httpd
# Required-Start:    $local_fs
# Required-Stop:     $local_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: A small web server
### END INIT INFO
run() { start-stop-daemon --quiet --pidfile /run/hello-httpd.pid "$@"; }
case "$1" in
    start) run --start --oknodo --background --make-pidfile --startas /usr/local/sbin/hello-httpd ;;
    stop) run --stop --oknodo --remove-pidfile --retry 5 ;;
    restart|force-reload) "$0" stop; "$0" start ;;
    status) run --status ;;
    *) echo "usage: $0 start|stop|restart|status" >&2; exit 2 ;;
esac
INIT
    chmod 755 /etc/init.d/hello-httpd
    update-rc.d hello-httpd defaults
    /etc/init.d/hello-httpd restart
fi
"#;

/// Whether the server answers now.
pub(crate) fn serves(address: IpAddr) -> bool {
    // A server that is not there refuses at once; one that is may be slow.
    http::get(address, Duration::from_secs(30)).is_ok_and(|page| page.starts_with(GREETING))
}

/// Asks the server until it answers, and hands back its line.
pub(crate) fn ask(address: IpAddr, patience: Duration) -> anyhow::Result<String> {
    let page = http::get_within(address, patience)?;
    let line = page.lines().next().unwrap_or_default().to_owned();
    anyhow::ensure!(
        line.starts_with(GREETING),
        "something that is not the container answers on {address} port 80: {line:?}"
    );
    Ok(line)
}
