# Becomes systemd, in namespaces of processes, mounts and cgroups that are its own already, but for the cgroups' mounts.
# $1: the directory of its units, which outlives it. $2: the name of its cgroup.
set -eu
units=$1

# Nothing of the machine around it is to be changed or cleaned up.
mount -o remount,bind,ro /sys
for directory in /run /tmp /var/log /var/tmp /etc/systemd/system; do mount -t tmpfs -o mode=0755 tmpfs "$directory"; done
mount --bind "$units" /etc/systemd/system

cgroups=$(awk '$3 == "cgroup" || $3 == "cgroup2" { print $2, $3, $4 }' /proc/mounts)
umount --recursive --lazy /sys/fs/cgroup
case $cgroups in
"/sys/fs/cgroup cgroup2 "*) ;;
*) mount -t tmpfs tmpfs /sys/fs/cgroup ;;
esac
echo "$cgroups" | while read -r path type options; do
  mkdir -p "$path"
  # What is no option of the hierarchy is one of every mount.
  options=$(echo "$options" | tr ',' '\n' | grep -Ev '^(rw|relatime|nosuid|nodev|noexec|nsdelegate|memory_recursiveprot|seclabel|xattr|clone_children)$' | paste -s -d,)
  case $options in name=*) options=none,$options ;; esac
  mount -t "$type" ${options:+-o "$options"} cgroup "$path"
done

# Only the units that are in its directory, of which none but these is the machine's own.
unit() { [ -e "$units/$1" ] || printf '%b' "$2" >"$units/$1"; }
unit sysinit.target '[Unit]\nDefaultDependencies=no\n'
unit basic.target '[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n'
unit multi-user.target '[Unit]\nRequires=basic.target\nAfter=basic.target\n'
unit network-online.target '[Unit]\n'
unit shutdown.target '[Unit]\nDefaultDependencies=no\n'
unit umount.target '[Unit]\nDefaultDependencies=no\n'
unit final.target '[Unit]\nDefaultDependencies=no\nAfter=shutdown.target umount.target\n'
unit poweroff.target '[Unit]\nDefaultDependencies=no\nRequires=systemd-poweroff.service\nAfter=systemd-poweroff.service\n'
unit systemd-poweroff.service '[Unit]\nDefaultDependencies=no\nRequires=shutdown.target umount.target final.target\nAfter=shutdown.target umount.target final.target\n[Service]\nType=oneshot\nExecStart=/bin/systemctl --force poweroff\n'
exec env -i PATH="$PATH" container=segue-test SYSTEMD_UNIT_PATH=/etc/systemd/system SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=notice \
  /lib/systemd/systemd --system --unit=multi-user.target --default-standard-output=null --default-standard-error=inherit </dev/null
