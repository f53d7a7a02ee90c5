#!/bin/bash
# Plays each daemon compromised, and root of the node beside them, on a node where container 101 runs. One line
# a try: who, the try, yes or no. The script of the tries is standard input of `cat` below.
set -eu
mkdir -p /opt/ves-tries /run/systemd/system
cat >/opt/ves-tries/tries.pl
printf '\0\0\0\0\0' >/opt/ves-tries/empty
chmod -R a+rX /opt/ves-tries
probe=/run/systemd/system/ves-try.service
pid() { systemctl show -p MainPID --value "ves-$1.service"; }
init=$(pgrep -P "$(pgrep -f 've[s]-init monitor')")
net=$(readlink /proc/1/ns/net)
try() { # who
    systemctl daemon-reload
    systemctl start ves-try.service || { journalctl -u ves-try.service -o cat -n 20 >&2; exit 1; }
    grep -qx 'all tried' /opt/ves-tries/out
    sed -n "s/\t\(yes\|no\)$/\t\1/p" /opt/ves-tries/out | sed "s/^/$1\t/"
}
words() { # who
    local other=coordinatord
    [ "$1" != coordinator ] || other=storaged
    echo "/usr/bin/perl /opt/ves-tries/tries.pl $1 $init $(pid $other) $net"
}
cat >$probe <<UNIT
[Service]
Type=oneshot
ExecStart=$(words root)
StandardOutput=truncate:/opt/ves-tries/out
UNIT
try root
for who in coordinator:coordinatord storage:storaged network:networkd resources:resourced lifecycle:lifecycled; do
    name=${who%:*}
    # Of the unit all but how it runs; what it makes at its start is there.
    sed -e "s|^ExecStart=.*|ExecStart=$(words "$name")|" -e 's/^Type=.*/Type=oneshot/' \
        -e '/^Restart/d;/^StateDirectory/d;/^RuntimeDirectory/d;/^Wants=/d;/^Requires=/d;/^After=/d;/^Before=/d' \
        -e '/^\[Install\]/,$d' -e '/^\[Service\]/a StandardOutput=truncate:/opt/ves-tries/out' \
        "/usr/lib/systemd/system/ves-${who#*:}.service" >$probe
    # Its directories are writable to it as they are to the daemon.
    case $name in storage | coordinator) echo "ReadWritePaths=/var/lib/ves/$name" >>$probe ;; esac
    case $name in network | lifecycle) echo "ReadWritePaths=/run/ves/fence/$name" >>$probe ;; esac
    # A drop-in is by the unit's name.
    rm -rf $probe.d
    [ ! -d /run/systemd/system/ves-${who#*:}.service.d ] ||
        cp -r /run/systemd/system/ves-${who#*:}.service.d $probe.d
    try "$name"
done
rm -rf $probe $probe.d /opt/ves-tries
systemctl daemon-reload
