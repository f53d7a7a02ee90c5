# What the first process of a native node does until it becomes the node's init.
#
#   init.sh groups DIR NAME LAYERS DEVICES CONSOLE [mount=DIRECTORY,OPTIONS | join=DIRECTORY]…
#
# It runs in namespaces of its own (mounts, processes, network, names, ipc) and is process 1 there, with
# the file systems of the machine still in view. The first part joins the node's control groups, so that
# they are the roots of what the second part sees in a namespace of groups.
set -eu
part=$1 dir=$2 name=$3 layers=$4 devices=$5 console=$6
shift 6

if [ "$part" = groups ]; then
    for word; do
        case $word in join=*) echo 0 > "${word#join=}/cgroup.procs" ;; esac
    done
    exec unshare --cgroup /bin/sh "$0" mounts "$dir" "$name" "$layers" "$devices" "$console" "$@"
fi

# /proc is still the machine's: the first number is ours as the machine knows it.
while read -r key value _; do
    [ "$key" = NSpid: ] && echo "$value" > "$dir/pid.new"
done < /proc/self/status

mount -t overlay overlay \
    -o "lowerdir=$layers,upperdir=$dir/up,workdir=$dir/work,volatile" "$dir/root"
cd "$dir/root"

# udev and sysctl of the node must not act on the machine: of /proc/sys and /sys only what belongs to
# its network namespace can be written.
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,rw proc/sys/net
# A machine forwards nothing when it begins; a new network namespace does what this machine does.
for setting in ipv4/ip_forward ipv6/conf/all/forwarding; do
    [ ! -e "proc/sys/net/$setting" ] || echo 0 > "proc/sys/net/$setting"
done

mount -t tmpfs -o mode=755,size=8m tmpfs dev
cp -a "$devices/." dev/
# As udev would have it, which acts on no device of the machine: group disk.
chown :6 dev/loop*
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p dev/pts dev/shm dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs dev/shm
: > dev/console
mount --bind "$console" dev/console
# The kernel gives a new /proc or /sys to a container only where a whole one is in view.
mkdir -p dev/.whole/proc dev/.whole/sys
chmod 0 dev/.whole
mount -t proc proc dev/.whole/proc
mount -t sysfs sysfs dev/.whole/sys

mount -t tmpfs -o mode=755,nosuid,nodev tmpfs run
mkdir run/lock
# A boot of its own has a number of its own.
cat proc/sys/kernel/random/uuid > run/lab-boot-id
mount --bind run/lab-boot-id proc/sys/kernel/random/boot_id
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
for word; do
    case $word in
    mount=*)
        options=${word#mount=}
        mkdir -p "run/cg1/${options%%,*}"
        mount -t cgroup -o "${options#*,}" cgroup "run/cg1/${options%%,*}"
        ;;
    esac
done
# Units see of /run little, or may not write there: of these they may, as at /sys anywhere else.
for drop_in in resourced:BindPaths lifecycled:ReadWritePaths; do
    unit=run/systemd/system/ves-${drop_in%:*}.service.d
    mkdir -p "$unit"
    printf '[Service]\n%s=-/run/cg1\n' "${drop_in#*:}" > "$unit/groups.conf"
done
stat --format=%Hd:%Ld . > "$dir/device"

hostname "$name"
echo "$name" > etc/hostname
# Whoever waits for the number finds everything in its place.
mv "$dir/pid.new" "$dir/pid"
mkdir -p old
pivot_root . old
umount -l /old
mount --make-rshared /
exec env -i container=lab TERM=linux PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /sbin/init --show-status=yes
