# The steps of a service on one host: what a replicated device needs here to become a database. Arguments: directory, step, verb.
# $dir/dev/disk is the device, as a block device of the kernel, whose page cache takes requests of any size.
set -eu
dir=$1
pg=/usr/lib/postgresql/15/bin
fuse=$LOCKSTEP_RUN_DIR/device
# What a host remembers dies with it: its processes have other numbers in its next life.
pidfile=$dir/dev/nbdfuse.pid
# nbdfuse is where the first process is: see who starts this.
below() { nsenter --mount=/proc/1/ns/mnt "$@"; }

alive() { pgrep -x postgres >/dev/null; }

# Detaches now, or when nobody uses it any more.
detach() {
  [[ -L $dir/dev/disk ]] || return 0
  local loop
  loop=$(readlink "$dir/dev/disk")
  [[ $(losetup -n -O BACK-FILE "$loop" 2>/dev/null) == "$fuse/nbd" ]] || return 0
  losetup -d "$loop"
}

case $2-$3 in
device-start)
  mkdir -p "$fuse"
  if [[ ! -e $fuse/nbd ]]; then
    below setsid nbdfuse --pidfile "$pidfile" "$fuse" "nbd+unix:///r0?socket=$LOCKSTEP_RUN_DIR/r0.nbd" \
      </dev/null >/dev/null 2>&1 &
    for _ in $(seq 500); do
      [[ -e $fuse/nbd ]] && break
      sleep 0.01
    done
  fi
  [[ -L $dir/dev/disk ]] || ln -s "$(losetup -f --show "$fuse/nbd")" "$dir/dev/disk"
  ;;
device-stop)
  detach
  rm -f "$dir/dev/disk"
  # It may be dead, which nobody can look at.
  below umount -l "$fuse" 2>/dev/null || true
  [[ -e $pidfile ]] && { kill -9 "$(cat "$pidfile")" 2>/dev/null || true; }
  rm -f "$pidfile"
  ;;
postgres-start)
  alive && exit 0
  # The mount holds it from here on, and nothing is left when this host dies.
  detach
  # It names a process of the host where it was written.
  rm -f "$dir/data/pg/postmaster.pid"
  exec runuser -u postgres -- "$pg/pg_ctl" -D "$dir/data/pg" -l "$dir/data/pg/log" -s -w -t 60 \
    -o "-c listen_addresses=* -c unix_socket_directories= -c shared_buffers=16MB" start
  ;;
postgres-stop)
  alive || exit 0
  timeout 5 runuser -u postgres -- "$pg/pg_ctl" -D "$dir/data/pg" -s -m fast -t 4 stop >/dev/null 2>&1 && exit 0
  # Only those of this host are seen here.
  pkill -9 -x postgres || true
  for _ in $(seq 300); do
    alive || exit 0
    sleep 0.01
  done
  echo "postgres does not end" >&2
  exit 1
  ;;
esac
