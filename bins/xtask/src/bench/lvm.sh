#!/bin/bash
# On a machine that is only there for this: how long a thin volume takes to be made, to be cloned while it
# is shown, and to be deleted, by messages to the pool and by LVM's commands, with more and more volumes
# in the pool. Prints lines: number of volumes, way, operation, microseconds; the last two lines of each
# number are sizes in bytes. Volumes are but entries of metadata. Told by $1: the most there shall be.
#
# LVM's volumes are not made by LVM, which would take hours: the pool is told of them by messages, and
# the volume group's record is written and given to vgcfgrestore.
set -euo pipefail
most=$1
rounds=5
mib=256
umask 022

# Nothing else runs, and a group of 10 000 volumes needs more room for its record than the usual MiB.
systemctl stop 've[s]-*' 2>/dev/null
vgremove -qq -ff -y ves
pvcreate -qq -ff -y --metadatasize 64M /dev/vdb
vgcreate -qq ves /dev/vdb
cd "$(mktemp -d)"

# 64 bytes a chunk, as LVM reckons, and two blocks a volume.
metadata=$((2 * 1024 * 16 * 64 / 1024 + 8 * most + 4096))
for pool in messages lvm; do
    lvcreate -qq -y --type thin-pool -L 2G -c 64k --poolmetadatasize ${metadata}k -Z n -n $pool ves
done

# What all are clones of: an ext4.
thin create ves-messages 1
mkfs.ext4 -q "$(thin show ves-messages 1 base $mib)"
thin hide ves-messages base
lvcreate -qq -y -An -V ${mib}M -T ves/lvm -n base
mkfs.ext4 -q /dev/ves/base
lvchange -qq -An -an ves/base

# How long a command takes in the middle of all rounds, with the number of the round for each %.
now() { echo "${EPOCHREALTIME//./}"; }
median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }
rows() { # operation, command
    local begun round
    for round in $(seq $rounds); do
        begun=$(now)
        ${2//%/$round} >&2
        echo $(($(now) - begun))
    done | { echo "$have lvm $1 $(median)"; }
}

# Gives LVM's pool so many volumes more, numbered from $1 on.
grow() {
    local first=$1 count=$2 transaction
    transaction=$(lvs --noheadings -o transaction_id ves/lvm | xargs)
    lvchange -qq -An -ay ves/lvm
    thin many ves-lvm-tpool "$first" "$count" 1
    dmsetup message ves-lvm-tpool 0 "set_transaction_id $transaction $((transaction + count))"
    lvchange -qq -An -an ves/lvm
    vgcfgbackup -qq -f record ves >&2
    awk -v first="$first" -v count="$count" -v from="$transaction" '
        /^\t\tlvm \{/ { pool = 1 }
        pool && /transaction_id = / { sub(/[0-9]+/, from + count); pool = 0 }
        /^\t\tbase \{/ {
            for (n = first; n < first + count; n++)
                printf "\t\tv%d {\nid = \"aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-%06d\"\n" \
                    "status = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = [\"ACTIVATION_SKIP\"]\n" \
                    "creation_time = 1700000000\ncreation_host = \"node1\"\nsegment_count = 1\n" \
                    "segment1 {\nstart_extent = 0\nextent_count = 64\ntype = \"thin\"\n" \
                    "thin_pool = \"lvm\"\ntransaction_id = %d\ndevice_id = %d\norigin = \"base\"\n}\n}\n",
                    n, n, from + n - first, n
        }
        { print }' record >more
    vgcfgrestore -qq -y --force -f more ves >&2
    lvchange -qq -An -ay ves/lvm
}

have=1
for many in 10 100 1000 10000; do
    [ $many -le "$most" ] || continue
    thin many ves-messages $((have + 1)) $((many - have)) 1
    # LVM gives the number after the highest to what it makes, and here deletes it again.
    grow $((have + 1)) $((many - have))
    have=$many

    thin bench ves-messages 9000000 1 25 $mib | sed "s/^/$have messages /"
    rows create 'lvcreate -qq -y -An -kn -s -n c% ves/base'
    rows snapshot 'lvcreate -qq -y -An -s -n s% ves/c%'
    rows stock 'lvrename -qq -An ves/c% ves/d%'
    for round in $(seq $rounds); do lvremove -qq -y -An ves/s$round >&2; done
    rows delete 'lvremove -qq -y -An ves/d%'
    used=$(dmsetup status ves-messages | cut -d' ' -f5 | cut -d/ -f1)
    echo "$have messages metadata $((used * 4096))"
    vgcfgbackup -qq -f record ves >&2
    echo "$have lvm record $(stat -c %s record)"
done
