#!/bin/sh
# The first process of a lab kernel: the host's root read-only below /host, tmpfs over what must
# be written, one job from the exchange directory, power off.
#
# First it runs in the initrd, with busybox alone; then, called with `job`, on the host's root,
# which has become this kernel's: in a mere chroot nobody could make a user namespace.
export PATH=/bin

die() { echo "lab: $*" >/dev/console; poweroff -f; }

if [ "$1" = job ]; then
    # The serial line is the job's; it is raw, so that what was written is what the host reads.
    job=/dev/ttyS1; [ -n "$lab_exchange" ] && job=/dev/ttyS0
    $BUSYBOX stty -F $job raw -echo
    # There is no udev that would load the driver of the machine's crypto device.
    [ -z "$HARDWARE" ] || /sbin/modprobe -d "$MODULES" "$HARDWARE"
    : >/run/lab/booted
    /bin/sh /run/lab/job.sh >$job 2>&1
    echo $? >/run/lab/status.new && $BUSYBOX sync && $BUSYBOX mv /run/lab/status.new /run/lab/status
    $BUSYBOX poweroff -f
fi

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

. /exchange/boot.env    # KEEP, HIDE, MODULES, SYSCTL, HARDWARE

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
mkdir -p /host/run/lab && mount --move /exchange /host/run/lab || die "cannot show the exchange"

ln -sf /proc/self/fd /dev/fd; ln -sf fd/0 /dev/stdin; ln -sf fd/1 /dev/stdout; ln -sf fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
hostname lab

# What stays when the initrd goes: busybox, this script, and what the kernel calls for modules.
mkdir /host/run/lab-init
cp /bin/busybox /init /host/run/lab-init
printf '#!/bin/sh\nexec /sbin/modprobe -d "%s" "$@"\n' "$MODULES" >/host/run/lab-init/modprobe
chmod 755 /host/run/lab-init/modprobe
echo /run/lab-init/modprobe >/proc/sys/kernel/modprobe

# Linux 7.3 shows its level here; older kernels have the directory only.
if [ -n "$SYSCTL" ] && [ -d /proc/sys/crypto ]; then
    fips=$(cat /proc/sys/crypto/fips_enabled)
    mount -t tmpfs -o mode=755 tmpfs /proc/sys/crypto
    echo "$fips" >/proc/sys/crypto/fips_enabled
    echo "$SYSCTL" >/proc/sys/crypto/af_alg_restrict
fi

for path in dev proc sys; do mount --move /$path /host/$path; done
export MODULES HARDWARE BUSYBOX=/run/lab-init/busybox
exec switch_root -c /dev/console /host $BUSYBOX sh /run/lab-init/init job
