#!/usr/bin/env bash
# exfat-fuse: to make a file whose name exFAT cannot hold fails as if its folder were missing.
#
# One would expect EINVAL, as from the kernel's drivers of FAT and exFAT, or another error that is about the name. Programs take ENOENT
# from open() with O_CREAT for a folder that is not there: they make it, try again, and fail again, or tell their user to look for it.
#
# The program behind the mount answers that there is no such file (ENOENT) for a name with one of : ? * " < > | \ in it, although the
# folder exists and other names can be made in it. A name that is too long is told as such (ENAMETOOLONG).
#
# Seen with exfat-fuse 1.3.0+git20220115-2 of Debian 12. We met it where a download is put on a USB stick under a name that is
# none there: the message was about a path that could not be written, and the name was not in doubt.
#
# What to do: where open() with O_CREAT says ENOENT, look whether the folder is there before it is made or missed; if it is, the name
# is at fault.
set -euo pipefail

if [ "$(id -u)" != 0 ] || [ ! -e /dev/fuse ]; then
    echo "needs root, loop devices and /dev/fuse"
    exit 1
fi
command -v mount.exfat-fuse >/dev/null && command -v mkfs.exfat >/dev/null || apt-get install -y -qq exfat-fuse=1.3.0+git20220115-2 exfatprogs >/dev/null
folder=$(mktemp -d)
device=
trap 'umount "$folder/disk" 2>/dev/null || true; [ -z "$device" ] || losetup -d "$device"; rm -rf "$folder"' EXIT
mkdir "$folder/disk"
truncate -s 64M "$folder/image"
mkfs.exfat "$folder/image" >/dev/null
device=$(losetup --find --show "$folder/image")
mount.exfat-fuse "$device" "$folder/disk" >/dev/null 2>&1
dpkg-query -W exfat-fuse

said=$(python3 - "$folder/disk" <<'END'
import errno, os, sys
for name in ["plain", "what?", "n" * 256]:
    try:
        os.close(os.open(os.path.join(sys.argv[1], name), os.O_CREAT | os.O_WRONLY))
        print(f"{name[:8]}: made")
    except OSError as error:
        print(f"{name[:8]}: {errno.errorcode[error.errno]}")
END
)
echo "$said"
expected=$'plain: made\nwhat?: ENOENT\nnnnnnnnn: ENAMETOOLONG'
if [ "$said" = "$expected" ]; then
    echo "as described: a name that cannot be is told as a folder that is missing"
else
    echo "it has changed"
    exit 1
fi
