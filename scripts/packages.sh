# Debian packages, installed only when something is missing. Sourced by quickstart, test
# and bench.

# Runs a command as root.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_packages LOG NAME...: installs Debian packages; on failure shows the end of LOG.
install_packages() {
  local log=$1
  shift
  echo "Installing Debian packages: $*"
  local options=(-y --no-install-recommends -o Dpkg::Use-Pty=0)
  if ! { as_root apt-get update &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@"; } \
    >>"$log" 2>&1 </dev/null; then
    echo "could not install Debian packages: $* (log: $log)" >&2
    tail -n 40 "$log" >&2
    return 1
  fi
}

# Prints the folder of PostgreSQL's programs, the newest version's; fails when there is none.
postgres_programs() {
  local folder newest=
  for folder in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V); do
    if [ -x "$folder/initdb" ] && [ -x "$folder/pgbench" ]; then newest=$folder; fi
  done
  [ -n "$newest" ] && echo "$newest"
}

# install_postgres LOG: PostgreSQL's programs alone, without the cluster that Debian's package
# creates and starts: nothing may be left running.
install_postgres() {
  if postgres_programs >/dev/null; then return; fi
  install_packages "$1" postgresql
  local version
  version=$(basename "$(dirname "$(postgres_programs)")")
  as_root pg_dropcluster --stop "$version" main >>"$1" 2>&1 || true
}
