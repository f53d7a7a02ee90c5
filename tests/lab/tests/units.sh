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
ves-networkd 24
ves-storaged 24
ves-lifecycled 24
ves-starter 84
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
[ "$(ps -o user= -p "$(pid ves-resourced)")" != root ] || fail "ves-resourced is root"

# (c) probes: a program in the very sandbox of each unit, that tries what is denied. Each attempt is a
# child, as a filter may kill it; one that ends with 0 was not denied. `control` must not be denied,
# which shows that the others fail for the reason they name.
cat >/run/ves-probe.pl <<'PERL'
use Socket;
my %try = (
    control => sub { 1 },
    inet => sub { socket(my $s, AF_INET, SOCK_STREAM, 0) },
    inet6 => sub { socket(my $s, AF_INET6, SOCK_STREAM, 0) },
    netlink => sub { socket(my $s, 16, SOCK_RAW, 0) },
    packet => sub { socket(my $s, 17, SOCK_RAW, 0) },
    module => sub { syscall(313, 0, "", 0) == 0 || $!{ENOEXEC} || $!{EBADF} || $!{EINVAL} },
    ptrace => sub { syscall(101, 16, getppid(), 0, 0) == 0 },
    reboot => sub { syscall(169, 0, 0, 0, 0) == 0 || $!{EINVAL} },
    clock => sub { syscall(227, 99, 0) == 0 || $!{EINVAL} },
    setns => sub { syscall(308, 0, 0) == 0 || $!{EINVAL} || $!{EBADF} },
    userns => sub { syscall(272, 0x10000000) == 0 },
    utsns => sub { syscall(272, 0x04000000) == 0 },
    mount => sub { my ($n, $t, $f) = ("none", "/tmp", "tmpfs"); syscall(165, $n, $t, $f, 0, 0) == 0 },
    system => sub { open(my $f, ">", "/usr/ves-probe") },
    config => sub { open(my $f, ">", "/etc/ves-probe") },
    sysctl => sub { open(my $f, ">", "/proc/sys/kernel/sysrq") },
    homes => sub { opendir(my $d, "/root") && grep { !/^\.\.?$/ } readdir $d },
    disk => sub { open(my $f, "<", "/dev/vda") },
    chown => sub { open(my $f, ">", "/tmp/x"); chown(1234, 1234, "/tmp/x") },
    setuid => sub { syscall(105, 1234) == 0 },
    kmsg => sub { open(my $f, "<", "/dev/kmsg") },
);
$| = 1;
for my $name (@ARGV) {
    my $child = fork;
    if (!$child) { exit(eval { $try{$name}->() } ? 0 : 1) }
    waitpid($child, 0);
    print "$name ", ($? ? "denied" : "allowed"), "\n";
}
PERL
while read -r unit denied; do
    file=/run/systemd/system/ves-probe.service
    mkdir -p /run/systemd/system
    sed -e "s|^ExecStart=.*|ExecStart=/usr/bin/perl /run/ves-probe.pl control $denied|" -e 's/^Type=.*/Type=oneshot/' \
        -e '/^\[Service\]/a StandardOutput=truncate:/run/ves-probe.out' -e '/^\[Service\]/a TimeoutStartSec=60' \
        -e '/^Restart/d;/^StateDirectory/d;/^Wants=/d;/^Requires=/d;/^After=/d;/^Before=/d;/^\[Install\]/,$d' \
        "/usr/lib/systemd/system/$unit.service" >$file
    systemctl daemon-reload
    systemctl start ves-probe.service || fail "the probe of $unit does not run"
    grep -qx 'control allowed' /run/ves-probe.out || fail "$unit: the control was denied"
    for name in $denied; do
        grep -qx "$name denied" /run/ves-probe.out || fail "$unit: $name is not denied"
    done
    ok "$unit: denied are $denied"
done <<'PROBES'
ves-coordinatord netlink packet module ptrace reboot clock setns userns utsns mount system config sysctl homes disk chown setuid kmsg
ves-resourced inet inet6 netlink packet module ptrace reboot clock setns userns utsns mount system config sysctl homes disk chown setuid kmsg
ves-networkd inet inet6 packet module ptrace reboot clock userns utsns mount system config homes disk chown setuid kmsg
ves-storaged inet inet6 netlink packet module ptrace reboot clock utsns system config sysctl homes disk kmsg
ves-lifecycled inet inet6 netlink packet module ptrace reboot clock userns utsns mount system config sysctl homes disk chown setuid kmsg
PROBES
rm -f /run/systemd/system/ves-probe.service /run/ves-probe.pl /run/ves-probe.out
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
    out=$(systemd-analyze verify --man=no "$unit" 2>&1) || fail "$unit: $out"
done
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
