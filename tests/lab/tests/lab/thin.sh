#!/bin/bash
# On a node with a volume group: LVM makes a thin pool, and volumes come and go by messages past it.
# The first thing that is not as it should be ends this, with status 1.
set -eu
fail() { echo "FAIL: $*"; exit 1; }
is() { [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"; }
refused() { local why=$1; shift; out=$("$@" 2>&1) && fail "$* was done"; grep -q "$why" <<<"$out" || fail "$*: $out"; }

lvcreate -qq -y --type thin-pool -L 512M -c 64k --poolmetadatasize 8M -Z n --discards passdown -n pool ves
lvchange -qq --errorwhenfull y ves/pool
status=$(thin status ves-pool)
for word in 'transaction: 0,' 'mode: Write,' 'discards: PassedDown,' 'errors_when_full: true,' \
    'needs_check: false,' 'kept_metadata: None,' 'block: 65536,' 'skips_zeroing: true,'; do
    grep -q "$word" <<<"$status" || fail "the pool does not say $word: $status"
done

# A volume, what is written to it, and a snapshot of it while it is mounted.
thin create ves-pool 8000001
refused 'File exists' thin create ves-pool 8000001
node=$(thin show ves-pool 8000001 ves-ct-101 256)
refused 'File exists\|busy' thin show ves-pool 8000001 ves-ct-101 256
udevadm settle
[ -b "$node" ] || fail "there is no $node"
is 'what udev made of it' "$(find /dev/disk /dev/mapper -lname "*/${node#/dev/}")" ''
mkfs.ext4 -q "$node"
mkdir -p /vol /snap
mount "$node" /vol
echo before >/vol/file
thin clone ves-pool 8000002 8000001 ves-ct-101
echo after >/vol/file
mount "$(thin show ves-pool 8000002 ves-snap 256)" /snap
is 'the snapshot' "$(cat /snap/file)" before
is 'the volume' "$(cat /vol/file)" after
mapped=$(thin mapped ves-pool ves-ct-101)
[ "$mapped" -gt 1000000 ] && [ "$mapped" -lt 100000000 ] || fail "the volume maps $mapped bytes"

# What is used is not taken away, and what is not there not deleted.
refused 'busy' thin delete ves-pool 8000002
refused 'busy' thin hide ves-pool ves-snap
refused 'No data available' thin clone ves-pool 8000003 8000009
# A clone that failed has not left the volume frozen.
refused 'File exists' thin clone ves-pool 8000002 8000001 ves-ct-101
timeout 10 sh -c 'echo again >/vol/file; sync -f /vol/file' || fail 'the volume is still frozen'

# LVM: it sees how full its pool is, grows it under the volumes, and lets it not go while they are shown.
lvs --noheadings -o data_percent ves/pool | grep -q '[1-9]' || fail 'LVM sees nothing in its pool'
lvextend -qq -L +64M ves/pool
lvextend -qq --poolmetadatasize +8M ves/pool
status=$(thin status ves-pool)
grep -q 'total: 9216,' <<<"$status" || fail "the pool's data has not grown: $status"
grep -q 'total: 4096,' <<<"$status" || fail "the pool's metadata has not grown: $status"
refused 'used by another device' lvcreate -qq -y -V 64M -T ves/pool -n theirs
refused 'used by another device' lvremove -qq -y ves/pool
refused 'used by another device' lvchange -qq -an ves/pool
is 'the volume' "$(cat /vol/file)" again

umount /snap
thin hide ves-pool ves-snap
thin delete ves-pool 8000002
refused 'No data available' thin delete ves-pool 8000002
umount /vol
thin hide ves-pool ves-ct-101
is 'what device-mapper has' "$(dmsetup ls --noheadings | cut -f1 | xargs)" 'ves-pool ves-pool_tdata ves-pool_tmeta'

# The pool goes and comes back through LVM, by way of its own check, and what was answered is there.
lvchange -qq -an ves/pool
lvchange -qq -y -ay ves/pool_tmeta
thin_check -q /dev/mapper/ves-pool_tmeta || fail 'thin_check does not like the metadata'
is 'what is in the metadata' "$(thin_dump /dev/mapper/ves-pool_tmeta | grep -o 'dev_id="[0-9]*"')" 'dev_id="8000001"'
lvchange -qq -an ves/pool_tmeta
lvchange -qq -ay ves/pool
mount "$(thin show ves-pool 8000001 ves-ct-101 256)" /vol
is 'the volume' "$(cat /vol/file)" again
umount /vol
thin hide ves-pool ves-ct-101
thin delete ves-pool 8000001
is "LVM's own number" "$(lvs --noheadings -o transaction_id ves/pool | xargs)" 0
lvremove -qq -y ves/pool

# One that is full: only what needs a new block fails, at once, and a delete makes room again.
lvcreate -qq -y --type thin-pool -L 16M -c 64k --poolmetadatasize 4M -Z n -n full ves
lvchange -qq --errorwhenfull y ves/full
thin create ves-full 8000001
node=$(thin show ves-full 8000001 ves-ct-102 64)
refused 'No space left' timeout 20 dd if=/dev/zero "of=$node" bs=1M oflag=direct
grep -q 'mode: OutOfDataSpace,' <<<"$(thin status ves-full)" || fail "the pool is not full: $(thin status ves-full)"
dd if=/dev/urandom "of=$node" bs=1M count=1 oflag=direct status=none
is 'what the full volume maps' "$(thin mapped ves-full ves-ct-102)" 16777216
thin create ves-full 8000002
thin hide ves-full ves-ct-102
thin delete ves-full 8000001
grep -q 'mode: Write,' <<<"$(thin status ves-full)" || fail "there is no room again: $(thin status ves-full)"
lvremove -qq -y ves/full
