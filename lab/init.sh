#!/bin/sh
# The first process of a lab kernel: the host's root read-only below /host, tmpfs over what must
# be written, one job from the exchange directory, power off.
#
# It runs in the initrd with busybox alone. The kernel's own calls for modules come back to this
# initrd (see /sbin/modprobe beside it), because the job runs in a chroot and the kernel does not.
export PATH=/bin

die() { echo "lab: $*" >/dev/console; poweroff -f; }

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/null >/dev/console 2>&1

# User-Mode Linux says where the exchange directory is (the kernel hands unknown parameters to
# init); QEMU exports it by a mount tag.
if [ -n "$lab_exchange" ]; then
    mount -t hostfs -o ro root /host || die "no hostfs"
    mount -t hostfs -o "$lab_exchange" exchange /exchange || die "no exchange directory"
else
    while read -r module; do insmod "/modules/$module" || die "cannot load $module"; done </modules/order
    nine=trans=virtio,version=9p2000.L,msize=512000
    mount -t 9p -o "$nine,cache=loose,ro" root /host || die "no 9p root"
    mount -t 9p -o "$nine,cache=none" exchange /exchange || die "no exchange directory"
fi

. /exchange/boot.env    # KEEP, HIDE, MODULES, SYSCTL

# What must stay visible although it lies below a directory that becomes a tmpfs.
n=0
for path in $KEEP; do
    n=$((n + 1)); mkdir -p "/keep/$n"
    mount --bind "/host$path" "/keep/$n" || die "cannot keep $path"
done
for path in $HIDE; do
    [ -d "/host$path" ] || continue
    mount -t tmpfs -o mode=1777 tmpfs "/host$path" || die "no tmpfs on $path"
done
chmod 755 /host/run /host/root 2>/dev/null
n=0
for path in $KEEP; do
    n=$((n + 1)); mkdir -p "/host$path"
    mount --move "/keep/$n" "/host$path" || die "cannot show $path"
done
mkdir -p /host/run/lab && mount --bind /exchange /host/run/lab || die "cannot show the exchange"

mount -t proc proc /host/proc
mount -t sysfs sysfs /host/sys
mount --bind /dev /host/dev
mkdir -p /host/dev/pts /host/dev/shm
mount -t devpts devpts /host/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /host/dev/shm
ln -sf /proc/self/fd /dev/fd; ln -sf fd/0 /dev/stdin; ln -sf fd/1 /dev/stdout; ln -sf fd/2 /dev/stderr
ip link set lo up
hostname lab

printf '#!/bin/sh\nexec chroot /host /sbin/modprobe -d "%s" "$@"\n' "$MODULES" >/sbin/modprobe
chmod 755 /sbin/modprobe
echo /sbin/modprobe >/proc/sys/kernel/modprobe

# Linux 7.3 shows its level here; older kernels have the directory only.
if [ -n "$SYSCTL" ] && [ -d /host/proc/sys/crypto ]; then
    fips=$(cat /proc/sys/crypto/fips_enabled)
    mount -t tmpfs -o mode=755 tmpfs /host/proc/sys/crypto
    echo "$fips" >/host/proc/sys/crypto/fips_enabled
    echo "$SYSCTL" >/host/proc/sys/crypto/af_alg_restrict
fi

job=/dev/ttyS1; [ -n "$lab_exchange" ] && job=/dev/ttyS0
stty -F $job raw -echo
: >/exchange/booted
chroot /host /bin/sh /run/lab/job.sh >$job 2>&1
echo $? >/exchange/status.new && sync && mv /exchange/status.new /exchange/status
poweroff -f
