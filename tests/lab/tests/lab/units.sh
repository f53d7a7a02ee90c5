#!/bin/bash
# Checks on a node with our packages, as root: scores, denials, files. One line a failure, status 1.
# What it changes on the node, probe units and endpoints of telemetry, goes back.
set -u
bad=0
fail() { echo "FAIL: $*"; bad=1; }
ok() { echo "ok: $*"; }

# (a) scores: unit, most (tenths)
while read -r unit most; do
    if out=$(systemd-analyze security --no-pager --threshold="$most" "$unit.service" 2>&1); then
        ok "$(tail -1 <<<"$out")"
    else
        fail "$unit is above $most tenths: $(tail -1 <<<"$out")"
    fi
done <<'SCORES'
ves-coordinatord 12
ves-resourced 10
ves-networkd 16
ves-storaged 23
ves-lifecycled 16
ves-builder@1 38
ves-starter 84
ves-lxcfs 60
SCORES

# (b) what runs: exact capabilities, filter, no new privileges, namespaces of its own
bit() { case $1 in chown) echo 0;; dac_override) echo 1;; kill) echo 5;; setgid) echo 6;; setuid) echo 7;;
    net_admin) echo 12;; sys_chroot) echo 18;; sys_admin) echo 21;; sys_resource) echo 24;; esac; }
mask() { local m=0 c; for c in "$@"; do m=$((m | 1 << $(bit "$c"))); done; printf '%016x' $m; }
pid() { systemctl show -p MainPID --value "$1.service"; }
status() { sed -n "s/^$2:\t*//p" "/proc/$(pid "$1")/status"; }
while read -r unit caps; do
    want=$(mask $caps)
    for set in CapBnd CapPrm CapEff; do
        got=$(status "$unit" $set)
        [ "$got" = "$want" ] || fail "$unit $set is $got, not $want"
    done
    [ "$(status "$unit" CapAmb)" = 0000000000000000 ] || fail "$unit hands capabilities on"
    [ "$(status "$unit" NoNewPrivs)" = 1 ] || fail "$unit may gain privileges"
    user=$(sed 's/^ves-coordinatord$/ves/;s/d$//' <<<"$unit")
    [ "$user" != ves-resource ] || user=ves-resources
    [ "$(ps -o user:32= -p "$(pid "$unit")")" = "$user" ] || fail "$unit is not $user"
    [ "$(status "$unit" Seccomp)" = 2 ] || fail "$unit has no filter"
    [ "$(readlink /proc/"$(pid "$unit")"/ns/mnt)" != "$(readlink /proc/1/ns/mnt)" ] ||
        fail "$unit is in the node's mount namespace"
    [ "$unit" = ves-networkd ] || [ "$unit" = ves-coordinatord ] || [ "$(nsenter -t "$(pid "$unit")" -n cat /proc/net/dev | wc -l)" = 3 ] ||
        fail "$unit has a network"
    for path in /usr/x /etc/x /boot/x; do
        nsenter -t "$(pid "$unit")" -m touch $path 2>&1 | grep -q 'Read-only' || fail "$unit can write $path"
    done
    nsenter -t "$(pid "$unit")" -m test -z "$(nsenter -t "$(pid "$unit")" -m ls -A /root 2>/dev/null)" ||
        fail "$unit sees /root"
    if [ "$unit" != ves-storaged ]; then
        nsenter -t "$(pid "$unit")" -m test ! -e /dev/vda || fail "$unit sees disks"
    fi
    ok "$unit: capabilities ($caps), filter, namespaces, read-only system"
done <<'UNITS'
ves-coordinatord
ves-resourced dac_override
ves-networkd net_admin sys_admin
ves-storaged sys_admin sys_chroot setuid setgid sys_resource
ves-lifecycled sys_admin sys_chroot dac_override kill
UNITS

# (c) probes: a program in the very sandbox of each unit, that tries what is denied. Each attempt is a
# child, as a filter may kill it; one that ends with 0 was not denied. All are first made by a unit
# without a sandbox, where each must come through: what is denied later is denied by the unit, and not
# by a probe that cannot succeed. A name that no probe has fails the unit.
mkdir -p /opt/ves-probe
cat >/opt/ves-probe/probe.pl <<'PERL'
use Socket;
sub call { my @words = @_; return syscall($words[0], @words[1 .. $#words]) }
sub file { open(my $f, ">", $_[0]) or return 0; close $f }
sub made { my $good = file($_[0]); unlink $_[0]; $good }
sub filled { opendir(my $d, $_[0]) or return; grep { !/^\.\.?$/ } readdir $d }
sub udp { socket(my $s, AF_INET, SOCK_DGRAM, 0) or return; $s }
sub local_port { sockaddr_in($_[0], INADDR_LOOPBACK) }
my $mine = "/tmp/ves-probe.$$";
my %try = (
    inet => sub { udp() },
    inet6 => sub { socket(my $s, AF_INET6, SOCK_STREAM, 0) },
    netlink => sub { socket(my $s, 16, SOCK_RAW, 0) },
    packet => sub { socket(my $s, 17, SOCK_RAW, 0) },
    ip => sub {
        my $s = udp() or return;
        bind($s, local_port(0)) && send($s, "x", 0, getsockname $s);
    },
    lowport => sub { my $s = udp() or return; bind($s, local_port(1023)) },
    mark => sub { my $s = udp() or return; setsockopt($s, SOL_SOCKET, 36, pack("i", 1)) },
    module => sub { my $none = ""; call(313, -1, $none, 0) == 0 || $!{EBADF} },
    modules => sub { filled("/usr/lib/modules") },
    ptrace => sub { call(101, 0x4206, getppid(), 0, 0) == 0 },
    reboot => sub { call(169, 0, 0, 0, 0) == 0 || $!{EINVAL} },
    swap => sub { my $none = "/nowhere"; call(168, $none) == 0 || $!{ENOENT} },
    clock => sub { my $now = "\0" x 16; syscall(228, 0, $now) == 0 && syscall(227, 0, $now) == 0 },
    ports => sub { call(172, 3) == 0 },
    setns => sub { call(308, 0, 0) == 0 || $!{EINVAL} },
    mntns => sub { call(272, 0x00020000) == 0 },
    cgroupns => sub { call(272, 0x02000000) == 0 },
    utsns => sub { call(272, 0x04000000) == 0 },
    ipcns => sub { call(272, 0x08000000) == 0 },
    userns => sub { call(272, 0x10000000) == 0 },
    pidns => sub { call(272, 0x20000000) == 0 },
    netns => sub { call(272, 0x40000000) == 0 },
    mount => sub {
        my $none = "";
        mkdir $mine;
        my $good = call(165, "none", $mine, "tmpfs", 0, $none) == 0;
        call(166, $mine, 0) if $good;
        rmdir $mine;
        $good;
    },
    hostname => sub { chomp(my $name = `uname -n`); call(170, $name, length $name) == 0 },
    personality => sub { call(135, 8) >= 0 },
    realtime => sub { my $priority = pack("i", 1); call(144, 0, 1, $priority) == 0 },
    nice => sub { call(141, 0, 0, -5) == 0 },
    wx => sub { call(9, 0, 4096, 7, 0x22, -1, 0) > 0 },
    wxlater => sub { my $at = call(9, 0, 4096, 3, 0x22, -1, 0); $at > 0 && call(10, $at, 4096, 7) == 0 },
    suid => sub { my $good = file($mine) && chmod(04755, $mine); unlink $mine; $good },
    chown => sub { my $good = file($mine) && chown(1234, 1234, $mine); unlink $mine; $good },
    mknod => sub { my $good = call(133, $mine, 0020600, 0x103) == 0; unlink $mine; $good },
    setuid => sub { call(105, 1234) == 0 },
    system => sub { made("/usr/ves-probe") },
    config => sub { made("/etc/ves-probe") },
    sysctl => sub { open(my $f, ">", "/proc/sys/kernel/sysrq") },
    cgroup => sub { mkdir("/sys/fs/cgroup/ves-probe") && rmdir("/sys/fs/cgroup/ves-probe") },
    homes => sub { filled("/root") },
    state => sub { filled("/var/lib/ves") },
    init => sub { -d "/proc/1" },
    disk => sub { open(my $f, "<", "/dev/vda") },
    kmsg => sub { open(my $f, "<", "/dev/kmsg") },
    syslog => sub { call(103, 10, 0, 0) >= 0 },
);
$| = 1;
made($mine) or die "the control is denied: $mine: $!\n";
for my $name (@ARGV ? @ARGV : sort keys %try) {
    exists $try{$name} or die "no probe $name\n";
    defined(my $child = fork) or die "fork: $!\n";
    if (!$child) {
        # One that is killed leaves it, which must not be in the way of the next.
        $mine .= ".$name";
        exit(eval { $try{$name}->() } ? 0 : 1);
    }
    waitpid($child, 0);
    print "$name ", ($? ? "denied" : "allowed"), "\n";
}
print "all tried\n";
PERL
probe=/run/systemd/system/ves-probe.service
mkdir -p /run/systemd/system
# Runs the probe of the unit that stands there by now, of which $1 says whose it is.
try() {
    systemctl daemon-reload
    systemctl start ves-probe.service && grep -qx 'all tried' /opt/ves-probe/out ||
        fail "the probe of $1 does not run: $(journalctl -u ves-probe.service -o cat -n 5)"
}
cat >$probe <<'UNIT'
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/ves-probe/probe.pl
StandardOutput=truncate:/opt/ves-probe/out
UNIT
try nobody
out=$(grep denied /opt/ves-probe/out) && fail "denied without a sandbox: $out"
ok "without a sandbox $(grep -c allowed /opt/ves-probe/out) probes come through"
# What a unit that declares this must be probed for.
declarations='DevicePolicy=closed disk
InaccessiblePaths= state
IPAddressDeny=any ip
LockPersonality=yes personality
MemoryDenyWriteExecute=yes wx wxlater
ProtectClock=yes clock
ProtectControlGroups=yes cgroup
ProtectHome=yes homes
ProtectHostname=yes hostname
ProtectKernelLogs=yes kmsg syslog
ProtectKernelModules=yes module modules
ProtectKernelTunables=yes sysctl
ProtectProc= init
ProtectSystem=strict system config
RestrictAddressFamilies= packet
RestrictNamespaces= setns
RestrictRealtime=yes realtime
RestrictSUIDSGID=yes suid
SystemCallFilter= ptrace reboot swap'
while read -r unit denied; do
    while read -r declared names; do
        grep -q "^$declared" "/usr/lib/systemd/system/$unit.service" || continue
        for name in $names; do
            [[ " $denied " = *" $name "* ]] || fail "$unit declares $declared and is not probed for $name"
        done
    done <<<"$declarations"
    sed -e "s|^ExecStart=.*|ExecStart=/usr/bin/perl /opt/ves-probe/probe.pl $denied|" -e 's/^Type=.*//' \
        -e '/^\[Service\]/a Type=oneshot' -e '/^\[Service\]/a TimeoutStartSec=60' \
        -e '/^\[Service\]/a StandardOutput=truncate:/opt/ves-probe/out' -e '/^Standard/d;/^RuntimeMaxSec/d' \
        -e '/^Restart/d;/^StateDirectory/d;/^RuntimeDirectory/d;/^Wants=/d;/^Requires=/d;/^After=/d;/^Before=/d;/^\[Install\]/,$d' \
        "/usr/lib/systemd/system/$unit.service" >$probe
    try "$unit"
    for name in $denied; do
        grep -qx "$name denied" /opt/ves-probe/out || fail "$unit: $name is not denied"
    done
    ok "$unit: denied are $denied"
done <<'PROBES'
ves-coordinatord netlink packet module modules ptrace reboot swap clock ports setns mntns cgroupns utsns ipcns userns pidns netns mount hostname personality realtime nice wx wxlater suid chown mknod setuid system config sysctl cgroup homes init disk kmsg syslog
ves-resourced inet inet6 netlink packet ip module modules ptrace reboot swap clock ports setns mntns cgroupns utsns ipcns userns pidns netns mount hostname personality realtime nice wx wxlater suid chown mknod setuid system config sysctl homes state disk kmsg syslog
ves-networkd inet inet6 packet ip module modules ptrace reboot swap clock ports setns mntns cgroupns utsns ipcns userns pidns mount hostname personality realtime nice wx wxlater suid chown mknod setuid system config cgroup homes init disk kmsg syslog
ves-storaged inet inet6 netlink packet ip module modules ptrace reboot swap clock ports setns cgroupns utsns ipcns netns hostname personality realtime nice wx wxlater chown mknod setuid system config sysctl cgroup homes init disk kmsg syslog
ves-lifecycled inet inet6 netlink packet ip module modules ptrace reboot swap clock ports setns cgroupns utsns ipcns userns pidns netns mount hostname personality realtime nice wx wxlater suid chown mknod setuid system config sysctl homes state disk kmsg syslog
ves-builder@ packet lowport mark module modules ptrace reboot swap clock ports setns cgroupns userns netns hostname personality realtime nice system config sysctl cgroup homes state init disk kmsg syslog
ves-starter packet ip lowport mark module reboot clock ports realtime nice kmsg syslog
PROBES
rm -rf $probe /opt/ves-probe
systemctl daemon-reload
systemctl reset-failed ves-probe.service 2>/dev/null

# (d) telemetry: as the files suggest, through the coordinator to a receiver that only takes notes
perl -MIO::Socket::INET -e '
    my $at = IO::Socket::INET->new(LocalAddr => "127.0.0.1:4317", Listen => 64) or die;
    $SIG{CHLD} = "IGNORE";
    while (my $from = $at->accept) {
        next if fork;
        open(my $notes, ">", "/run/ves-otlp.$$") or die;
        while (sysread $from, my $bytes, 65536) { syswrite $notes, $bytes }
        exit;
    }' &
receiver=$!
sed -i 's/^#otlp_endpoint/otlp_endpoint/' /etc/ves/*.toml
systemctl restart ves-{storaged,networkd,resourced,lifecycled,coordinatord}
end=$((SECONDS + 60))
for d in coordinatord lifecycled networkd resourced storaged; do
    until grep -qs "ves-$d" /run/ves-otlp.*; do
        [ $SECONDS -lt $end ] || { fail "ves-$d reports nothing"; break; }
        sleep 0.5
    done && ok "ves-$d reports"
done
sed -i 's/^otlp_endpoint/#otlp_endpoint/' /etc/ves/*.toml
systemctl restart ves-{storaged,networkd,resourced,lifecycled,coordinatord}
kill $receiver
rm -f /run/ves-otlp.*

# (e) what packages bring
[ "$(ip route show proto ves 2>&1)" = "$(ip route show proto 86 2>&1)" ] && ip route show proto ves >/dev/null 2>&1 ||
    fail "iproute2 does not know the protocol ves"
for unit in /usr/lib/systemd/system/ves-*; do
    case $unit in *@.service) unit=${unit/@/@1};; esac
    # A node has no `man`, but the pages.
    out=$(systemd-analyze verify --man=no "$unit" 2>&1) || fail "$unit: $out"
    pages=$(sed -n 's/^Documentation=//p' "${unit/@1/@}" | grep -o 'man:[^ ]*' | tr ':()' ' ')
    [ -n "$pages" ] || fail "$unit names no page"
    while read -r _ page section; do
        zgrep -q '^\.SH' /usr/share/man/man$section/"$page.$section".gz || fail "$unit: there is no $page($section)"
    done <<<"$pages"
done
for d in coordinatord lifecycled networkd resourced storaged; do
    page=/usr/share/man/man8/ves-$d.8.gz
    for option in $(/usr/lib/ves/ves-$d --help | grep -o '^ *-.*' | grep -o -- '--[a-z-]*'); do
        zcat $page | sed 's/\\-/-/g' | grep -q "^\.B.* *$option\b" || fail "$page is silent on $option"
    done
done
zgrep -q '^\.SH' /usr/share/man/man1/virtctl.1.gz || fail "virtctl has no page"
for file in /usr/lib/sysusers.d/ves.conf /usr/lib/tmpfiles.d/ves.conf /usr/lib/sysctl.d/60-ves.conf \
    /usr/share/bash-completion/completions/virtctl /usr/share/zsh/vendor-completions/_virtctl \
    /usr/share/fish/vendor_completions.d/virtctl.fish; do
    [ -s $file ] || fail "$file is not there"
done
bash -n /usr/share/bash-completion/completions/virtctl || fail "the completion for bash does not parse"
for service in coordinator lifecycle network resources storage; do
    [ -f /etc/ves/$service.toml ] || fail "/etc/ves/$service.toml is not there"
done
for d in coordinatord lifecycled networkd resourced storaged; do
    /usr/lib/ves/ves-$d --check-config || fail "ves-$d does not take its configuration"
done
[ "$(sysctl -n kernel.keys.maxkeys)" = 20000 ] || fail "sysctl settings are not in force"
exit $bad
